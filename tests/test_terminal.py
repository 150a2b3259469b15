"""What stands on a terminal while a search runs."""

from rich.console import Console

from llm_expo.search import Round
from llm_expo.search.events import Begun, Chosen, Done, Split, Tried
from llm_expo.stats import Interval
from llm_expo.terminal.search import _Standings


def shown(standings: _Standings) -> str:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(standings.shown())
    return captured.get()


def test_the_standings_rank_what_is_alive_and_tell_what_is_in_hand():
    standings = _Standings()
    standings.watch(Split(40, 20))
    assert shown(standings).strip() == ""
    standings.watch(Begun(1, Round({0.0: 8, 1.0: 8, 5.0: 8}, "the ladder", 36), 24, 96))
    standings.watch(Done("generate", "search", 1.0, 0, 8, 0, 0.0))
    assert "replies of alpha 1" in shown(standings) and "0/8" in shown(standings) and "left" not in shown(standings)
    standings.watch(Done("generate", "search", 1.0, 8, 8, 640, 4.0))
    assert "8/8 160 tokens/s" in shown(standings) and "round 1: about 0:00:0" in shown(standings)
    assert "of the search, 0:00:" in shown(standings)
    for alpha, gain in ((0.2, 0.1), (1.0, 0.5)):
        standings.watch(Tried("search", alpha, 8, gain, Interval(gain, 0.25, 0, 1, 8), None))
    standings.watch(Tried("search", 5.0, 8, 9.0, Interval(9.0, 0.1, 8, 10, 8), "it loops"))
    text = shown(standings)
    assert text.index("+0.500 ± 0.250") < text.index("+0.100 ± 0.250") and "+9.000" not in text
    standings.watch(Chosen(1.0, 20))
    assert (
        "confirmation: about" in shown(standings)
        and "of the search" not in shown(standings)
        and "+0.500" not in shown(standings)
    )
