"""Who teaches, and what: the generator, the teacher, the curriculum and its file."""
