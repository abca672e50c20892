"""The programs are run by tests, and are no tests themselves."""

collect_ignore = ["programs"]
