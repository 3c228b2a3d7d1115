"""What users and datasets name, in pages and model cards."""

import re

from dreamjax.reports import pages


def test_names_stay_plain_text_in_markdown():
    assert pages.in_markdown("muse_n170 CC-BY-4.0") == "muse_n170 CC-BY-4.0"
    hostile = pages.in_markdown("a | b\n# title\r\n<script>`code` [x](y) \\")
    assert "\n" not in hostile
    assert re.sub(r"\\.", "", hostile).count("|") == 0
    assert not set("|<>`[]") & set(re.sub(r"\\.", "", hostile))
