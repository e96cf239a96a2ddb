"""No command, argument or option is lost or comes unnoticed. `help/` keeps the texts as they were,
to read; their wording is free."""

from tests.golden.lab import help_text, kept, options


def test_commands_and_options_are_the_kept_ones():
    assert options() == kept("options.json")


def test_the_help_names_them_all():
    expected = kept("options.json")
    assert all(command in help_text("") for command in expected)
    for command, names in expected.items():
        text = help_text(command)
        assert not [n for n in names if n.startswith("--") and n not in text], command
