"""The fixture `patient_shared`: a shared service with generous limits and a TTL that no test outlives.

A test module uses it with `pytest_plugins = ["patient_plugin"]` and a fixture `shared` that returns it.
"""

from collections.abc import Iterator

import pytest
from patient import TTL_S, PatientService
from shared_service import SharedService, start_shared_service

from chatlab.local.engines import Engines


@pytest.fixture(scope="session")
def patient_shared(
    engines: Engines, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SharedService]:
    """Return one patient service for all modules that ask for it."""
    log = tmp_path_factory.mktemp("patient") / "service.log"
    with start_shared_service(engines, log, PatientService, CACHE_TTL=str(TTL_S)) as shared:
        yield shared
