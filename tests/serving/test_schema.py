"""What the OpenAPI document says, the endpoint does: requests drawn from it, and what they are answered."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from mmray.config import Config
from tests.serving.asgi import app_of

SETTINGS = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_route_keeps_to_the_openapi_document(config: Config, mode: GenerationMode) -> None:
    document = schemathesis.openapi.from_asgi("/openapi.json", app_of(config))
    asked = set()
    for found in document.get_all_operations():
        operation = found.ok()

        @settings(SETTINGS)
        @given(case=operation.as_strategy(generation_mode=mode))
        def keeps(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=CHECKS)
            asked.add(case.operation.label)

        keeps()
    assert len(asked) == 11
