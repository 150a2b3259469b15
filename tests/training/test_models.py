"""What the libraries say while a model is loaded."""

import pytest
from huggingface_hub.utils import are_progress_bars_disabled
from transformers.utils import logging

from llm_expo.training.models import quiet


@pytest.mark.parametrize("bars", [True, False])
def test_quiet_nests_and_leaves_what_was(bars):
    before, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    try:
        (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
        logging.set_verbosity_info()
        with quiet():
            with quiet():
                pass
            assert not logging.is_progress_bar_enabled() and are_progress_bars_disabled()
            assert logging.get_verbosity() == logging.ERROR
        assert logging.is_progress_bar_enabled() is bars and are_progress_bars_disabled() is not bars
        assert logging.get_verbosity() == logging.INFO
    finally:
        (logging.enable_progress_bar if before else logging.disable_progress_bar)()
        logging.set_verbosity(level)
