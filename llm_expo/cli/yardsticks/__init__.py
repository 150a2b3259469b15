"""What `llm-expo evaluate --on` names, a module each: `add_options`, `check` and `run`, which writes and prints."""
