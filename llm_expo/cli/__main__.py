"""`python -m llm_expo.cli`, as `accelerate launch` and `torchrun` want it."""

import sys

from llm_expo.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
