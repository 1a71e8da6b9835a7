"""Stored explanations with other libraries: xarray, Dask, DuckDB, and an S3 server on this computer."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pellucid import explain_to_disk, open_explanations
from pellucid.core.errors import DataError
from pellucid.report.stored import write_stored_report
from pellucid.run.to_disk.index import write_index
from pellucid.storage.sharded import Address
from pretended_store import CLASSES, METHODS, write_store

pytestmark = [
    pytest.mark.integrations,
    # of botocore and aiobotocore
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

READABLE = [number for number in range(20) if number not in (3, 11)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("stored") / "maps.zarr"
    return folder, write_store(folder)


def test_xarray_has_coordinates_and_the_same_values(store: tuple[Path, dict[str, Any]]) -> None:
    pytest.importorskip("xarray")
    folder, rows = store
    table = open_explanations(folder).to_xarray()
    assert set(table.coords) == {"key", "label", "prediction", "target", "attribution", "class"}
    assert table["attribution"].values.tolist() == list(METHODS)
    assert table["class"].values.tolist() == list(CLASSES)
    np.testing.assert_array_equal(table["key"], rows["key"][READABLE])
    np.testing.assert_array_equal(table["label"], rows["label"][READABLE])
    maps = table["relevance"].sel(attribution="lrp.epsilon")
    assert maps.dims == ("image", "channel", "height", "width")
    np.testing.assert_array_equal(maps, rows["relevance"][READABLE, 1])
    np.testing.assert_array_equal(table["logits"][4:9], rows["logits"][READABLE][4:9])


def test_dask_computes_means_by_class(store: tuple[Path, dict[str, Any]]) -> None:
    pytest.importorskip("xarray")
    pytest.importorskip("dask")
    folder, rows = store
    table = open_explanations(folder).to_xarray().chunk(image=5)
    means = abs(table["relevance"]).groupby(table["prediction"].compute()).mean("image").compute()
    for label in range(3):
        chosen = np.abs(rows["relevance"][rows["prediction"] == label])
        np.testing.assert_allclose(means.sel(prediction=label), chosen.mean(0), rtol=1e-5)


def test_a_missing_file_is_an_error_in_xarray(tmp_path: Path) -> None:
    pytest.importorskip("xarray")
    write_store(tmp_path / "maps.zarr")
    (tmp_path / "maps.zarr" / "relevance" / "c.1.0.0.0.0").unlink()
    table = open_explanations(tmp_path / "maps.zarr").to_xarray()
    with pytest.raises(DataError, match="relevance of shard 1"):
        table["relevance"].load()


def test_duckdb_queries_the_index(store: tuple[Path, dict[str, Any]]) -> None:
    duckdb = pytest.importorskip("duckdb")
    folder, rows = store
    table = write_index(Address.of(folder))
    query = f"SELECT label_name, count(*) FROM '{table}' WHERE NOT is_correct GROUP BY ALL"
    known = (rows["label"] >= 0) & (rows["prediction"] >= 0) & (rows["label"] != rows["prediction"])
    wanted = {name: int((known & (rows["label"] == label)).sum()) for label, name in enumerate(CLASSES)}
    assert dict(duckdb.sql(query).fetchall()) == {name: count for name, count in wanted.items() if count}
    ((mean,),) = duckdb.sql(f"""SELECT avg(abs("residual.lrp.epsilon")) FROM '{table}'""").fetchall()
    assert mean == pytest.approx(np.abs(rows["residual"][READABLE, 1]).mean(), rel=1e-5)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of a bucket on an S3 server on this computer."""
    server_of = pytest.importorskip("moto.server").ThreadedMotoServer
    pytest.importorskip("s3fs")
    import boto3

    server = server_of(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        patch.setenv("no_proxy", "127.0.0.1")
        boto3.client("s3").create_bucket(Bucket="maps")
        yield "s3://maps"
    server.stop()


def test_a_store_in_object_storage(bucket: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    data = torch.rand(12, 1, 4, 4), torch.arange(12) % 3
    stored = explain_to_disk(model, data, f"{bucket}/a/maps.zarr", methods=METHODS, shard=5)
    local = explain_to_disk(model, data, tmp_path / "maps.zarr", methods=METHODS, shard=5)
    assert stored.is_complete
    for method in METHODS:
        np.testing.assert_array_equal(stored.relevance(method), local.relevance(method))
    np.testing.assert_array_equal(stored.select(label=1).logits, local.select(label=1).logits)
    import fsspec

    files, _ = fsspec.url_to_fs(bucket)
    table = files.cat_file("maps/a/maps.parquet")
    assert table == (tmp_path / "maps.parquet").read_bytes()
    page = write_stored_report(f"{bucket}/a/maps.zarr")
    assert page == f"{bucket}/a/maps.html"
    assert b"Mean maps by predicted class" in files.cat_file("maps/a/maps.html")
    modified = files.modified("maps/a/maps.parquet")
    assert write_index(Address.of(f"{bucket}/a/maps.zarr")) == f"{bucket}/a/maps.parquet"
    assert files.modified("maps/a/maps.parquet") == modified
    assert os.environ["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1")


def test_a_missing_object_is_an_error(bucket: str) -> None:
    import fsspec

    write_store(f"{bucket}/b/maps.zarr")
    files, _ = fsspec.url_to_fs(bucket)
    files.rm_file("maps/b/maps.zarr/logits/c.2.0")
    with pytest.raises(DataError, match=r"logits of shard 2 is damaged \(the file is missing\)"):
        _ = open_explanations(f"{bucket}/b/maps.zarr").select().logits
