"""An index of the nearest users of one version of a table, beside the exact search of `ray_ggsm.tables.nearest`."""
