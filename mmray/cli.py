"""`mmray <verb>`: read a config, call the stage's one function, print what it made, exit with its code.

Nothing heavy is imported until a verb runs.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from mmray.config import Config, StudyName, override, reference
from mmray.config import load as load_config
from mmray.errors import ConfigError, MmrayError

app = typer.Typer(
    help="Paired EEG and voice to graphs, leak-proof cross-modal retrieval, and a served endpoint, on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
index_app = typer.Typer()
app.add_typer(index_app, name="index")

ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML of the experiment; see jobs/configs.", show_default=False)
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one setting; repeatable.")
]
WorkspaceRoot = Annotated[
    str | None, typer.Option("--workspace", help="Folder or object-store URI of every artefact.", show_default=False)
]
Tracker = Annotated[
    Literal["tensorboard", "mlflow"] | None, typer.Option("--track", help="Tell this of every epoch, too.")
]
Stage = Literal["prepare", "train", "sweep", "compare", "power", "index", "serve"]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]


@app.command()
def recordings(
    study: Annotated[StudyName | None, typer.Option(help="Layout; see docs/studies.md.")] = None,
    root: Annotated[str | None, typer.Option(help="Folder of the study, or the manifest file.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; tell what of the whole study is missing, and exit with 3.")
    ] = False,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    workspace: WorkspaceRoot = None,
    as_json: AsJson = False,
) -> None:
    """Find which recordings exist and write recordings.parquet."""
    extra = [*_setting("study.kind", study), *_setting("study.root", root)]
    config = _resolve(config_file, overrides, workspace, extra)
    from mmray.recordings import catalogue, completeness, listening, synthetic

    if check:
        report = completeness.check(config.study)
        _show(report, as_json)
        raise typer.Exit(report.exit_code)
    if config.study.kind == "synthetic":
        synthetic.generate(config.study.root, config.synth, config.seed, config.cluster)
    if config.study.kind == "listening":
        listening.generate(config.study.root, config.listening, config.seed, config.cluster)
    _show(catalogue.catalogue(config), as_json)


@app.command()
def synth(
    out: Annotated[str, typer.Argument(help="Folder to write, in MODMA's layout.")],
    subjects: Annotated[int | None, typer.Option(help="People.")] = None,
    eeg_seconds: Annotated[float | None, typer.Option(help="Rest EEG a person, s.")] = None,
    clips: Annotated[int | None, typer.Option(help="Voice clips a person.")] = None,
    coupling: Annotated[float | None, typer.Option(help="What the modalities share, 0 to 1.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same bytes.")] = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Generate a synthetic study with a known truth."""
    extra = [
        *_setting("synth.subjects", subjects),
        *_setting("synth.eeg_seconds", eeg_seconds),
        *_setting("synth.clips", clips),
        *_setting("synth.coupling", coupling),
        *_setting("seed", seed),
    ]
    config = _resolve(config_file, overrides, None, extra)
    from mmray.recordings import synthetic

    _show(synthetic.generate(out, config.synth, config.seed, config.cluster), as_json)


@app.command()
def prepare(
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 when a recording was quarantined.")] = False,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    workspace: WorkspaceRoot = None,
    as_json: AsJson = False,
) -> None:
    """Turn recordings into segment graphs on Ray Data."""
    config = _resolve(config_file, overrides, workspace)
    from mmray.features import pipeline

    _show(pipeline.prepare(config, strict=strict), as_json)


@app.command()
def quality(
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    workspace: WorkspaceRoot = None,
    as_json: AsJson = False,
) -> None:
    """Report what preparation decided about every recording, with pictures of the worst and of typical ones."""
    config = _resolve(config_file, overrides, workspace)
    from mmray.evaluation import preparation

    _show(preparation.quality(config), as_json)


@app.command()
def split(
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    workspace: WorkspaceRoot = None,
    as_json: AsJson = False,
) -> None:
    """Write subject-disjoint folds, once."""
    config = _resolve(config_file, overrides, workspace)
    from mmray.recordings import splits

    _show(splits.write_split(config), as_json)


@app.command()
def train(
    track: Tracker = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    workspace: WorkspaceRoot = None,
    as_json: AsJson = False,
) -> None:
    """Fit the model on one fold, evaluate it on unseen subjects, and write its report."""
    config = _resolve(config_file, overrides, workspace, _setting("train.track", track))
    from mmray.training import trainer

    _show(trainer.train(config), as_json)


@app.command()
def sweep(
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the workspace's newest sweep, under its own settings.")
    ] = False,
    track: Tracker = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    workspace: WorkspaceRoot = None,
    as_json: AsJson = False,
) -> None:
    """Fit systems, learning rates, folds and seeds as one study, and compare them on the same people."""
    if resume and (overrides or track):
        raise ConfigError(
            "sweep: --resume takes the sweep's own settings; leave --set and --track out, and name its workspace by "
            "--workspace or by the --config that it was begun with"
        )
    config = _resolve(config_file, overrides, workspace, _setting("train.track", track))
    from mmray.training import sweep as study

    summary = study.resume(config.workspace) if resume else study.sweep(config)
    _show(summary, as_json)
    raise typer.Exit(summary.exit_code)


@app.command()
def compare(
    sweeps: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep", metavar="ID", help="Sweep to report; repeat it to pool several. The newest by default."
        ),
    ] = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    workspace: WorkspaceRoot = None,
    as_json: AsJson = False,
) -> None:
    """Write a sweep's report: figures, tables and tests between systems, from its rows alone."""
    config = _resolve(config_file, overrides, workspace)
    from mmray.evaluation import compare as comparison

    _show(comparison.compare(config, sweeps), as_json)


@app.command()
def power(
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    workspace: WorkspaceRoot = None,
    as_json: AsJson = False,
) -> None:
    """Tell how many people a study needs, from synthetic studies of known coupling."""
    config = _resolve(config_file, overrides, workspace)
    from mmray.training import power as studies

    summary = studies.power(config)
    _show(summary, as_json)
    raise typer.Exit(summary.exit_code)


@index_app.callback(invoke_without_command=True)
def index(
    context: typer.Context,
    run: Annotated[str | None, typer.Option("--run", help="Run id; the newest finished run by default.")] = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    workspace: WorkspaceRoot = None,
    as_json: AsJson = False,
) -> None:
    """Embed a run's recordings and publish a versioned vector index; or see and choose versions."""
    if context.invoked_subcommand is not None:
        if run or config_file or overrides or workspace or as_json:
            raise ConfigError(f"index: write options after {context.invoked_subcommand}")
        return
    config = _resolve(config_file, overrides, workspace)
    from mmray.index import build

    _show(build.build_index(config, run), as_json)


@index_app.command("versions")
def index_versions(
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    workspace: WorkspaceRoot = None,
    as_json: AsJson = False,
) -> None:
    """List the versions that are there."""
    config = _resolve(config_file, overrides, workspace)
    from mmray.index import versions

    _show(versions.versions(config), as_json)


@index_app.command("publish")
def index_publish(
    version: Annotated[str, typer.Argument(help="As `mmray index versions` lists it.")],
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    workspace: WorkspaceRoot = None,
    as_json: AsJson = False,
) -> None:
    """Make a version the one that endpoints take over, after opening and checking it."""
    config = _resolve(config_file, overrides, workspace)
    from mmray.index import versions

    _show(versions.publish(config, version), as_json)


@index_app.command("rollback")
def index_rollback(
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    workspace: WorkspaceRoot = None,
    as_json: AsJson = False,
) -> None:
    """Go back to the version that was published before the current one."""
    config = _resolve(config_file, overrides, workspace)
    from mmray.index import versions

    _show(versions.rollback(config), as_json)


@index_app.command("delete")
def index_delete(
    version: Annotated[str, typer.Argument(help="As `mmray index versions` lists it; not the current one.")],
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    workspace: WorkspaceRoot = None,
    as_json: AsJson = False,
) -> None:
    """Delete a version with its Milvus collections."""
    config = _resolve(config_file, overrides, workspace)
    from mmray.index import versions

    _show(versions.delete(config, version), as_json)


@index_app.command("forget")
def index_forget(
    subject: Annotated[str, typer.Argument(help="subject_id, as recordings.parquet has it.")],
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    workspace: WorkspaceRoot = None,
    as_json: AsJson = False,
) -> None:
    """Remove a person from every artefact of the workspace; the study's own files stay."""
    config = _resolve(config_file, overrides, workspace)
    from mmray.index import forget

    _show(forget.forget(config, subject), as_json)


@app.command()
def explain(
    recording: Annotated[str, typer.Option("--recording", help="Id of a prepared recording.")],
    run: Annotated[str | None, typer.Option("--run", help="Run id; the newest finished run by default.")] = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    workspace: WorkspaceRoot = None,
    as_json: AsJson = False,
) -> None:
    """Show what a run used of one recording: electrodes or frames, attention and gate."""
    config = _resolve(config_file, overrides, workspace)
    from mmray.training import explain as explanation

    _show(explanation.explain(config, recording, run), as_json)


@app.command()
def search(
    query: Annotated[
        list[str], typer.Argument(help="EEG or audio files, or ids of stored recordings; several are joined.")
    ],
    target: Annotated[Literal["eeg", "audio"], typer.Option(help="What to look for.")] = "audio",
    top_k: Annotated[int, typer.Option(help="How many matches.")] = 10,
    url: Annotated[
        str | None, typer.Option(help="Ask this endpoint instead of a local index.", show_default=False)
    ] = None,
    key: Annotated[str, typer.Option(envvar="MMRAY_KEY", help="API key of the endpoint.", show_default=False)] = "",
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    workspace: WorkspaceRoot = None,
    as_json: AsJson = False,
) -> None:
    """Find the recordings most like these in the published index."""
    if url:
        from mmray.client import Client

        asked = [Path(one) if Path(one).is_file() else one for one in query]
        with Client(url, key) as client:
            _show(client.search(*asked, target=target, top_k=top_k), as_json)
        return
    config = _resolve(config_file, overrides, workspace)
    from mmray.serving import retriever

    _show(retriever.search(config, query, target, top_k), as_json)


@app.command()
def serve(
    key: Annotated[
        str | None, typer.Option(envvar="MMRAY_KEY", help="API key; one is made and printed when none is given.")
    ] = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    workspace: WorkspaceRoot = None,
) -> None:
    """Serve retrieval over HTTP until interrupted."""
    config = _resolve(config_file, overrides, workspace)
    from mmray.serving import app as endpoint

    endpoint.serve(config, key)


keys_app = typer.Typer(help="Make, list and end the keys of a workspace's endpoints.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
KeyName = Annotated[str, typer.Argument(help="Whose key it is: letters, digits, _ and -.")]


@keys_app.command("add")
def keys_add(
    name: KeyName,
    rate: Annotated[int | None, typer.Option(help="Requests a minute; no limit when left out.")] = None,
    expires: Annotated[float | None, typer.Option(help="Days until it ends; never when left out.")] = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    workspace: WorkspaceRoot = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, this once."""
    config = _resolve(config_file, overrides, workspace)
    from mmray.serving import keys
    from mmray.storage import Workspace

    _show(keys.add(Workspace(config.workspace), name, rate, expires), as_json)


@keys_app.command("list")
def keys_list(
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    workspace: WorkspaceRoot = None,
    as_json: AsJson = False,
) -> None:
    """Print names, rates and ends; the keys themselves are kept nowhere."""
    config = _resolve(config_file, overrides, workspace)
    from mmray.serving import keys
    from mmray.storage import Workspace

    _show(keys.listed(Workspace(config.workspace)), as_json)


@keys_app.command("revoke")
def keys_revoke(
    name: KeyName,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    workspace: WorkspaceRoot = None,
    as_json: AsJson = False,
) -> None:
    """End a key now; running endpoints see it within serve.refresh_s."""
    config = _resolve(config_file, overrides, workspace)
    from mmray.serving import keys
    from mmray.storage import Workspace

    _show(keys.revoke(Workspace(config.workspace), name), as_json)


@keys_app.command("rotate")
def keys_rotate(
    name: KeyName,
    overlap: Annotated[float, typer.Option(help="Hours that the old key goes on to be taken.")] = 24.0,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    workspace: WorkspaceRoot = None,
    as_json: AsJson = False,
) -> None:
    """Make a new key of the same name and let the old one end after the overlap."""
    config = _resolve(config_file, overrides, workspace)
    from mmray.serving import keys
    from mmray.storage import Workspace

    _show(keys.rotate(Workspace(config.workspace), name, overlap), as_json)


@app.command()
def submit(
    stage: Annotated[Stage, typer.Argument(help="The verb to run there; prepare finds the recordings first.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="More of the verb's own, after --.", show_default=False)
    ] = None,
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard.")
    ] = "http://127.0.0.1:8265",
    follow: Annotated[bool, typer.Option(help="Print the job's log, on stderr, and end with its exit code.")] = True,
    stop: Annotated[bool, typer.Option("--stop-on-interrupt", help="Ctrl-C stops the job, too.")] = False,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    workspace: WorkspaceRoot = None,
    as_json: AsJson = False,
) -> None:
    """Run a stage as a job on a cluster, under the settings resolved here."""
    config = _resolve(config_file, overrides, workspace, elsewhere=True)
    from mmray import submission

    ended = submission.submit(config, stage, address, arguments, follow=follow, stop_on_interrupt=stop)
    _show(ended, as_json)
    raise typer.Exit(ended.exit_code)


@app.command()
def demo(
    workspace: Annotated[str, typer.Option(help="Folder for the study and every artefact.")] = "mmray-demo",
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Run the whole path on a synthetic study, in minutes."""
    from mmray import demo as walkthrough

    _show(walkthrough.run(workspace, config_file, overrides or []), as_json)


@app.command()
def settings() -> None:
    """Print every setting with its default and meaning, as Markdown."""
    print(reference(), end="")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check versions, cores, memory, GPU, Ray and disk, and say what is wrong."""
    from mmray import doctor as checks

    report = checks.examine()
    _show(report, as_json)
    raise typer.Exit(report.exit_code)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; an expected error is one line on stderr, not a traceback."""
    try:
        app(args=arguments)
    except MmrayError as error:
        print(f"mmray: {error}", file=sys.stderr)
        return error.exit_code
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    return 0


def _setting(key: str, value: Any) -> list[str]:
    return [] if value is None else [override(key, value)]


def _resolve(
    config_file: Path | None,
    overrides: list[str] | None,
    workspace: str | None,
    extra: list[str] | None = None,
    *,
    elsewhere: bool = False,
) -> Config:
    laid_over = [*(extra or []), *_setting("workspace", workspace), *(overrides or [])]
    config = load_config(config_file, laid_over, elsewhere=elsewhere)
    if not config.workspace:
        raise ConfigError("workspace is empty; give --workspace a folder or a URI")
    if "working_dir_files" in Path(config.workspace).parts:
        raise ConfigError(
            f"workspace: {config.workspace} lies in this job's own folder, which Ray deletes when it ends; "
            "give --workspace an absolute path or a URI"
        )
    return config


def _show(summary: Any, as_json: bool) -> None:
    """Print a stage's summary dataclass: its own rendering for people, its fields for machines."""
    if as_json:
        print(json.dumps(dataclasses.asdict(cast(Any, summary)), default=str, ensure_ascii=False))
        return
    from rich.console import Console

    Console(markup=False, highlight=False).print(summary.render(), soft_wrap=True)
