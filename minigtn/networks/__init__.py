"""The networks that are taught: layers, learners, how they are sampled, and the search spaces."""
