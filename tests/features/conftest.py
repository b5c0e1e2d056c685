from __future__ import annotations

import os

# a pipeline that hangs becomes an error; read when Ray Data is first imported
os.environ["RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S"] = "60"
