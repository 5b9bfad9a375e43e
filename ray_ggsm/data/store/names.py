"""Under which names users come into a store: as in the source, or by pseudonyms; and who does not come in."""

from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm.data.pseudonyms import is_suppressed, pseudonyms


@dataclass(frozen=True)
class Names:
    """What a store does about the ids of the source."""

    suppressed: Collection[str] = ()
    """Pseudonyms of users whose records are not taken."""
    key: bytes | None = None
    """Key of the pseudonyms; None: nobody is suppressed, and users keep their ids."""
    pseudonymous: bool = False
    """Whether users are named by pseudonyms."""

    def taken(self, rows: pa.Table, user: str) -> pa.Table:
        """The rows of users who are taken, under the names that they have in the store; `user`: the column."""
        if self.key is not None and self.suppressed:
            rows = rows.filter(pc.invert(is_suppressed(rows[user], self.suppressed, self.key)))
        if self.key is not None and self.pseudonymous:
            position = rows.schema.get_field_index(user)
            rows = rows.set_column(position, rows.schema.field(position), pseudonyms(rows[user], self.key))
        return rows

    def shown(self, rejected: pa.Table) -> pa.Table:
        """Rejected records; where ids must not be seen without what stood in them: an id may be in the wrong column.

        The name of the column stays.
        """
        if not self.pseudonymous:
            return rejected
        names = pc.utf8_rtrim_whitespace(pc.replace_substring_regex(rejected["detail"], "(?s)[=:].*", ""))
        return rejected.set_column(rejected.schema.get_field_index("detail"), "detail", names)
