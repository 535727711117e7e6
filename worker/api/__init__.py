"""HTTP: knows requests and jobs; knows neither torch nor what is inside the engine."""
