"""The metrics of several api processes as one page."""

from __future__ import annotations

from services.agent.server.summed_metrics import summed

PAGE = """# HELP agent_requests_total Requests.
# TYPE agent_requests_total counter
agent_requests_total{method="POST",status="200"} %d.0
# HELP agent_requests_created Requests.
# TYPE agent_requests_created gauge
agent_requests_created{method="POST",status="200"} 1.7e+09
# HELP agent_request_duration_seconds Time.
# TYPE agent_request_duration_seconds histogram
agent_request_duration_seconds_bucket{le="0.005"} 1.0
agent_request_duration_seconds_bucket{le="+Inf"} 2.0
agent_request_duration_seconds_count 2.0
agent_request_duration_seconds_sum 0.5
# HELP process_start_time_seconds Start.
# TYPE process_start_time_seconds gauge
process_start_time_seconds %d.0
# HELP python_info Python.
# TYPE python_info gauge
python_info{version="3"} 1.0
"""


def test_samples_of_the_same_labels_add_up_and_times_do_not() -> None:
    page = summed([PAGE % (3, 50), PAGE % (4, 40)]).decode()
    assert 'agent_requests_total{method="POST",status="200"} 7.0' in page
    assert 'agent_request_duration_seconds_bucket{le="+Inf"} 4.0' in page
    assert "agent_request_duration_seconds_sum 1.0" in page
    assert "process_start_time_seconds 40.0" in page
    assert 'python_info{version="3"} 1.0' in page
    assert 'agent_requests_created{method="POST",status="200"} 1.7e+09' in page
