"""What `llm-expo evaluate --on` names, a module each: `OWN`, `add_options`, `check`, `run`, and
`run_elsewhere` for what was judged or measured elsewhere."""
