"""Offline user embeddings from behaviour logs: contrastive training, batch embedding and evaluation on Ray.

Import direction, strictly downwards (tests/test_layers.py): jobs -> cli -> on_ray -> {stages, building} -> experiment
-> {training, embedding, evaluation, tables, data} -> {model, masks} -> {config, hashing, html, numerics, progress,
storage}. Only `ray_ggsm.on_ray` imports Ray.
"""
