import json
import subprocess
import sys

START = [sys.executable, "-m", "tessera.tasks.pool_worker"]


def test_each_line_is_answered_in_order_and_the_end_of_input_ends_it() -> None:
    lines = "".join(json.dumps([5, [a, b]]) + "\n" for a, b in [(7, 3), (10, 4)])
    run = subprocess.run([*START, "operator:sub", str(2**31)], input=lines, capture_output=True, text=True, check=True)
    assert [json.loads(line) for line in run.stdout.splitlines()] == ["ready", 4, 6]


def test_a_check_that_outlives_its_time_twice_is_ended_by_the_kernel() -> None:
    # The alarm is set to twice 0.01 seconds and one more.
    run = subprocess.run([*START, "time:sleep", str(2**31)], input="[0.01, [20]]\n", capture_output=True, text=True)
    assert run.returncode == -14  # SIGALRM
