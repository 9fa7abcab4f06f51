"""The configuration written out: as YAML, and its shape as JSON Schema."""

from typing import Final

import yaml

from ssm_status_reporter.config.keys import Branch, Leaf, keys
from ssm_status_reporter.config.kinds import JsonSchema
from ssm_status_reporter.config.schema import Configuration, Section
from ssm_status_reporter.config.texts import without_credentials

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def render(configuration: Configuration) -> str:
    """Every key with its value in effect, in the schema's order; `parse` reads the same configuration from it.

    No key holds a secret: the password is in a file of its own. Credentials in a URL, which `parse` refuses,
    are masked all the same.
    """
    text: str = yaml.safe_dump(
        _plain(configuration), sort_keys=False, allow_unicode=True, default_flow_style=False
    )
    return text


def json_schema() -> JsonSchema:
    """The JSON Schema of the configuration file, with descriptions and defaults."""
    return {"$schema": DIALECT, "title": "ssm-status-reporter", **_section_schema(Configuration)}


def _plain(section: Section) -> dict[str, object]:
    return {key.name: _plain_value(key, getattr(section, key.attribute)) for key in keys(type(section))}


def _plain_value(key: Leaf | Branch, value: object) -> object:
    if value is None:
        return None
    if isinstance(key, Branch):
        return _plain(value) if isinstance(value, Section) else value
    if isinstance(value, tuple):
        return [key.key.kind.write(item) for item in value]
    written = key.key.kind.write(value)
    return without_credentials(written) if key.name == "endpoint_url" and isinstance(written, str) else written


def _section_schema(section: type[Section]) -> JsonSchema:
    defaults = section()
    return {
        "type": "object",
        "description": section.__doc__,
        "additionalProperties": False,
        "properties": {key.name: _key_schema(key, getattr(defaults, key.attribute)) for key in keys(section)},
    }


def _key_schema(key: Leaf | Branch, default: object) -> JsonSchema:
    if isinstance(key, Branch):
        schema = _section_schema(key.section)
        return {"anyOf": [{"type": "null"}, schema], "default": None} if key.nullable else schema
    shape = key.key.kind.json_schema()
    if key.key.items_max is not None:
        shape = {"type": "array", "maxItems": key.key.items_max, "items": shape}
    if key.nullable:
        shape = {"anyOf": [{"type": "null"}, shape]}
    remark = key.key.kind.remark()
    description = f"{key.key.description} {remark}" if remark else key.key.description
    return {"description": description, **shape, "default": _plain_value(key, default)}
