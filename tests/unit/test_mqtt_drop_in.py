"""The drop-in that hands MQTT keys and a password to the service: what its comment says fits what it does."""

from pathlib import Path

from ssm_status_reporter.config import Tls, parse

UNIT = "ssm-status-reporter.service"
LINES = (Path(__file__).parents[2] / f"systemd/{UNIT}.d.examples/mqtt.conf").read_text("utf-8").splitlines()


def test_the_configuration_in_its_comment_names_the_credentials_that_it_loads() -> None:
    """Copied as it stands, it is valid, and each path below /run/credentials is a credential of the drop-in."""
    start = LINES.index("#   sources:")
    end = LINES.index("#", start)
    mqtt = parse("\n".join(line.removeprefix("#   ") for line in LINES[start:end]), "config.yaml").sources.mqtt
    assert mqtt.enabled
    assert mqtt.tls is not None
    loaded = {
        Path(f"/run/credentials/{UNIT}") / line.removeprefix("LoadCredential=").partition(":")[0]
        for line in LINES
        if line.startswith("LoadCredential=")
    }
    assert {mqtt.password_file, mqtt.tls.cert_file, mqtt.tls.key_file} == loaded


def test_the_readme_s_example_is_valid() -> None:
    """What README shows for AWS IoT Core is taken as it stands."""
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    (example,) = [block for block in readme.split("```") if block.startswith("yaml\nsources:\n  mqtt:")]
    mqtt = parse(example.removeprefix("yaml\n"), "config.yaml").sources.mqtt
    assert isinstance(mqtt.tls, Tls)
    assert mqtt.broker_port == 8883
