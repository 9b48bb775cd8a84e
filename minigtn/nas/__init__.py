"""Neural architecture search with a teacher instead of the data: search spaces, scores, search, rank
statistics, final training."""
