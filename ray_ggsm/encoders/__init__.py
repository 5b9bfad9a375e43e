"""The kinds of encoders. All go through the same jobs: one class embeds (`Encoder`), one trains (`Learner`)."""
