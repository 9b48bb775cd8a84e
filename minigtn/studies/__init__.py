"""Questions asked of finished teachers: what each part is worth, whom a curriculum teaches, whether the
gradients are right."""
