"""Work spread over a Ray cluster. Knows neither models nor what the work is."""
