"""The DuckDB functions that a user's SQL expression may use: those whose result depends on the data alone.

The list is ours: DuckDB's catalogue marks functions otherwise in each version. A function that is pure and missing
here can be added; the tests then ask the catalogue and the macro's definition. Left out on purpose, although the
catalogue calls many of them consistent:

- the clock, the session, chance, sequences, settings: now, today, ago, version, current_setting, random, uuid, ...
- what changes the number of rows: unnest, generate_subscripts, regexp_split_to_table
- what takes a function's or a type's name as text: list_aggregate, json_transform, from_json
- reservoir_quantile, which draws a random sample; error and assert_true, which stop the run
"""

import difflib


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# As the parser spells them: `a LIKE b` is `a ~~ b`, and `a!` was `!__postfix` before duckdb 2.
OPERATORS = _names("""
    + - * / // % ** ^ & | ~ << >> @ !__postfix || ^@ = != < <= > >= ~~ !~~ ~~* !~~* ~~~ ->> && @> <@ <-> <=>
    add subtract multiply divide like_escape not_like_escape ilike_escape not_ilike_escape
""")

NUMBERS = _names("""
    abs sign signbit ceil ceiling floor round round_even roundbankers trunc even mod fmod fdiv
    sqrt cbrt pow power exp ln log log2 log10 factorial binom gamma lgamma gcd greatest_common_divisor lcm
    least_common_multiple nextafter pi degrees radians
    sin cos tan cot asin acos atan atan2 sinh cosh tanh asinh acosh atanh
    isnan isinf isfinite greatest least xor
    bit_count bit_length bit_position bitstring get_bit set_bit
    bin to_binary unbin from_binary hex to_hex unhex from_hex to_base
""")

CHOICES = _names("if nullif switch")

STRINGS = _names("""
    ascii bar chr char_length character_length length len length_grapheme strlen octet_length
    concat concat_ws contains prefix suffix starts_with ends_with instr position strpos
    format printf format_bytes formatreadablesize formatreadabledecimalsize parse_formatted_bytes
    left left_grapheme right right_grapheme lower lcase upper ucase lpad rpad trim ltrim rtrim
    nfc_normalize strip_accents ord unicode overlay repeat replace reverse translate
    split split_part string_split str_split string_to_array string_split_regex str_split_regex regexp_split_to_array
    substr substring substring_grapheme
    regexp_escape regexp_extract regexp_extract_all regexp_full_match regexp_matches regexp_replace
    damerau_levenshtein editdist3 levenshtein hamming mismatches jaccard jaro_similarity jaro_winkler_similarity
    parse_dirname parse_dirpath parse_filename parse_path hive_partition_component url_encode url_decode
    base64 to_base64 from_base64 encode decode
    hash md5 md5_number md5_number_lower md5_number_upper sha1 sha256
    typeof enum_code enum_first enum_last enum_range enum_range_boundary
    uuid_extract_timestamp uuid_extract_version
""")

# Of instants, they follow the session's time zone, which is the config's. `age` needs both times: see ARGUMENTS.
TIMES = _names("""
    age century day dayname dayofmonth dayofweek dayofyear decade epoch epoch_ms epoch_ns epoch_us era hour
    isodow isoyear julian last_day days_in_month microsecond millennium millisecond minute month monthname nanosecond
    quarter second timezone timezone_hour timezone_minute week weekday weekofyear year yearweek
    date_add date_diff datediff date_part datepart date_sub datesub date_trunc datetrunc time_bucket
    make_date make_time make_timestamp make_timestamp_ms make_timestamp_ns make_timestamptz to_timestamp
    strftime strptime try_strptime normalized_interval
    to_centuries to_days to_decades to_hours to_microseconds to_millennia to_milliseconds to_minutes to_months
    to_quarters to_seconds to_weeks to_years
""")

LISTS = _names("""
    list_value list_pack array_value list_extract list_element array_extract element_at list_slice array_slice
    list_concat list_cat array_concat array_cat list_append list_prepend array_append array_prepend
    array_push_back array_push_front array_pop_back array_pop_front list_resize array_resize flatten
    list_contains list_has array_contains array_has list_has_all array_has_all list_has_any array_has_any
    list_position list_indexof array_position array_indexof array_length cardinality
    list_distinct array_distinct list_unique array_unique list_intersect array_intersect
    list_sort array_sort list_reverse_sort array_reverse_sort list_reverse array_reverse
    list_grade_up array_grade_up grade_up list_where array_where list_select array_select list_zip array_zip
    list_transform array_transform list_apply array_apply apply list_filter array_filter filter
    list_reduce array_reduce reduce array_to_string array_to_string_comma_default range generate_series
    list_any_value list_approx_count_distinct list_avg list_bit_and list_bit_or list_bit_xor list_bool_and list_bool_or
    list_count list_entropy list_first list_histogram list_kurtosis list_kurtosis_pop list_last list_mad list_max
    list_median list_min list_mode list_product list_sem list_skewness list_stddev_pop list_stddev_samp
    list_string_agg list_sum list_var_pop list_var_samp
    list_cosine_distance list_cosine_similarity list_distance list_dot_product list_inner_product
    list_negative_dot_product list_negative_inner_product array_cosine_distance array_cosine_similarity
    array_cross_product array_distance array_dot_product array_inner_product array_negative_dot_product
    array_negative_inner_product
""")

STRUCTS = _names("""
    row struct_pack struct_extract struct_extract_at struct_insert struct_update struct_concat struct_contains
    struct_has struct_indexof struct_position struct_keys struct_values
    map map_concat map_contains map_contains_entry map_contains_value map_entries map_extract map_extract_value
    map_from_entries map_keys map_values union_extract union_tag union_value
""")

JSON = _names("""
    json json_array json_array_length json_contains json_deep_merge json_exists json_extract json_extract_path
    json_extract_path_text json_extract_string json_insert json_keys json_merge_patch json_merge_patch_diff
    json_normalize json_object json_pretty json_quote json_remove json_replace json_set json_strip_nulls
    json_structure json_type json_valid json_value array_to_json row_to_json to_json
""")

# Sums of floats, approx_quantile and, among equals, arg_min, arg_max and mode can follow the order of the rows; that
# is rounding or the user's choice. `any_value` is for a value that all rows share.
AGGREGATES = _names("""
    count count_star count_if countif approx_count_distinct
    sum fsum kahan_sum sumkahan avg favg mean product wavg weighted_avg geomean geometric_mean
    min max any_value first last arbitrary mode median mad approx_top_k
    arg_min argmin min_by arg_min_null arg_min_nulls_last arg_max argmax max_by arg_max_null arg_max_nulls_last
    quantile quantile_cont quantile_disc approx_quantile histogram histogram_exact equi_width_bins
    is_histogram_other_bin
    stddev stddev_pop stddev_samp variance var_pop var_samp sem skewness kurtosis kurtosis_pop entropy
    corr covar_pop covar_samp regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy
    regr_syy
    bool_and bool_or bit_and bit_or bit_xor bitstring_agg
    list array_agg string_agg group_concat listagg
""")

ALLOWED = OPERATORS | NUMBERS | CHOICES | STRINGS | TIMES | LISTS | STRUCTS | JSON | AGGREGATES
"""Every function, in lower case."""
ORDERED = _names("first last arbitrary list array_agg string_agg group_concat listagg")
"""Aggregates that say something only with an ORDER BY inside."""
ARGUMENTS = {"age": 2}
"""How many arguments a function needs to be pure: `age(x)` counts from today."""
SESSION_NAMES = _names("""
    current_catalog current_date current_role current_schema current_time current_timestamp current_user
    localtime localtimestamp session_user rowid
""")
"""Columns that no table has: the clock, the session, and where a row happens to be stored."""
SESSION_TYPES = ("TIMETZ", "TIME WITH TIME ZONE")
"""A cast to these takes the offset from UTC of today."""


def objection(name: str, arguments: int, ordered: bool) -> str | None:
    """Why a function must not be used like this, as the end of a sentence; None when it may.

    Args:
        name: in lower case.
        arguments: how many are given in the parentheses.
        ordered: whether an ORDER BY is given in them, too.
    """
    if name not in ALLOWED:
        near = difflib.get_close_matches(name, sorted(ALLOWED), n=3, cutoff=0.75)
        hint = f"; similar names on it: {', '.join(near)}" if near else ""
        return f"{name}, which is not on the list of functions whose result depends on the data alone{hint}"
    if arguments != ARGUMENTS.get(name, arguments):
        return f"{name} without {ARGUMENTS[name]} arguments, so it depends on more than the data; give it all of them"
    if name in ORDERED and not ordered:
        return f"{name} without an order, so it depends on more than the data; write {name}(... ORDER BY ...)"
    return None
