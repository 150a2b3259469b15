from typing_extensions import Buffer

def step(
    initial: Buffer,
    initial_dtype: int,
    aligned: Buffer,
    aligned_dtype: int,
    out: Buffer,
    out_dtype: int,
    alpha: float,
    stochastic: bool,
    key: int,
    position: int,
    let_through: bool,
    tally: bool,
    /,
) -> tuple[int, int, float, float, int, int]: ...
def distance(
    initial: Buffer, initial_dtype: int, aligned: Buffer, aligned_dtype: int, /
) -> tuple[int, int, float, float, float, int, int]: ...
