"""The brief's figures for G-code, and what is wrong with each; printed beside a decoder's own."""

from dataclasses import dataclass

from callbacks.report_tables import number, table


@dataclass(frozen=True)
class Claim:
    """A figure of the brief.

    Attributes:
        name: What it is called there. value: What it says. metric: The same thing here, ``""`` = none.
        note: What is wrong with it, or how it was really measured.
    """

    name: str
    value: str
    metric: str
    note: str


CLAIMS = (
    Claim("operation accuracy", "1.0000", "operation_accuracy",
          "windows that overlap by 75 % lie on both sides of its random split"),
    Claim("token accuracy", "0.9023", "token_accuracy_brief",
          "2,419 of 2,681, teacher-forced, the end and unknown tokens counted, of a flat layer: the heads were never "
          "trained"),
    Claim("type accuracy", "0.998", "head_type", "no code of its repository can produce it for this model"),
    Claim("command accuracy", "0.999", "head_command", "the same"),
    Claim("parameter accuracy", "0.962", "head_param", "the same"),
    Claim("random", "0.0015", "", "1 / 668"),
    Claim("majority class", "0.2374", "", "the share of the end among its targets; a table without sensors has 0.849"),
    Claim("without proximity", "-0.067", "", "relative, not points: 0.8419; channels set to zero while judging"),
    Claim("without pressure", "-0.0525", "", "relative, not points: 0.8549; pressure tells recordings apart"),
    Claim("focal loss 1, 2, 3", "0.9030 to 0.9068", "",
          "noise: 2,420 to 2,431 of 2,681 (standard error 0.0057), for that loss was never applied"),
)  # fmt: skip

# What its tokens lose in points when a kind of sensor is set to zero: 0.9023 minus the figures of its results files.
LOST = {
    **{"proximity": 0.0604, "pressure": 0.0474, "accelerometer_x": 0.0243, "motor_current": 0.0, "gyroscope_y": 0.0232},
    **{"gyroscope_z": 0.0168, "colour": 0.0172, "magnetometer_z": 0.0172, "magnetometer_x": 0.0142},
    **{"magnetometer_y": 0.0142, "machine_position": 0.0116, "gyroscope_x": 0.0086, "rms": 0.0064},
    **{"temperature": 0.006, "accelerometer_y": 0.0023, "accelerometer_z": 0.0011},
}


def section(values: dict[str, float]) -> str:
    """Compose the section: each figure, the same thing measured here, and the note."""
    rows = [[claim.name, claim.value, number(values.get(claim.metric), 4), claim.note] for claim in CLAIMS]
    return (
        "## The brief's figures\n\n"
        + table(["", "brief", "here", "what it is"], rows)
        + "\n\nLike for like only under `--data.protocol leaky_random_windows`, whose figures say nothing about a new "
        "recording: `audit` says why."
    )
