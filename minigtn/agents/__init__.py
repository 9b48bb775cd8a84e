"""Teaching agents: curricula of (state, action distribution) batches, judged by the return of the policies
that they teach.

    result = training.train(config, Path("runs/cartpole"))    # minigtn rl train
    minigtn.teach(policy, minigtn.load_curriculum("cartpole-10"))

Optional packages (gymnasium, stable-baselines3) come with ``pip install 'minigtn[rl]'`` and are imported
where they are needed.
"""
