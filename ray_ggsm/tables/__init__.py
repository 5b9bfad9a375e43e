from ray_ggsm.tables.reader import open_table

__all__ = ["open_table"]
