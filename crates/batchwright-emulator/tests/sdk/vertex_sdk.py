"""Drives the emulator with Google's packages: python vertex_sdk.py BASE_URL

Needs google-genai, google-cloud-storage and cryptography. BASE_URL is the Vertex face's, for example
http://127.0.0.1:4711/vertex; another face's is taken for it. Ends with status 0 and one line per step, or with a
traceback.
"""

import hashlib
import json
import os
import sys
import tempfile
import urllib.request
from urllib.parse import urlsplit

# The metadata server's address is read when the package is loaded.
os.environ["GCE_METADATA_HOST"] = urlsplit(sys.argv[1]).netloc

import google.auth.compute_engine
import google.auth.compute_engine._metadata as metadata
import google.auth.exceptions
import google.auth.transport.requests
import google.oauth2.credentials
import google.oauth2.service_account
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google import genai
from google.api_core import exceptions as core
from google.cloud import storage
from google.genai import errors, types

parts = urlsplit(sys.argv[1])
origin = f"{parts.scheme}://{parts.netloc}"
SCOPE = ["https://www.googleapis.com/auth/cloud-platform"]
MODEL = "gemini-2.5-flash-lite"


def step(name):
    print("ok", name)


def control_call(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(origin + "/emulator" + path, data=data, method=method)
    with urllib.request.urlopen(request) as answer:
        return answer.read()


def prompt_hash(*texts):
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]


def raises(kind, call, code=None):
    try:
        call()
    except kind as error:
        assert code is None or error.code == code, error
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def client(credentials, project="proj", location="us-central1", version="v1"):
    return genai.Client(
        enterprise=True, project=project, location=location, credentials=credentials,
        http_options=types.HttpOptions(base_url=origin + "/vertex", api_version=version),
    )


control_call("POST", "/reset")
control_call("POST", "/clock", {"time_scale": 0})

# Credentials: a service account's file, gcloud's user file, the metadata server.
key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
account = {
    "type": "service_account", "project_id": "proj", "private_key_id": "k1", "private_key": key,
    "client_email": "sa@proj.iam.gserviceaccount.com", "client_id": "1", "token_uri": origin + "/oauth2/token",
}
transport = google.auth.transport.requests.Request()
service = google.oauth2.service_account.Credentials.from_service_account_info(account, scopes=SCOPE)
service.refresh(transport)
assert service.token and service.valid
user = google.oauth2.credentials.Credentials.from_authorized_user_info({
    "type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r",
    "token_uri": origin + "/oauth2/token"}, SCOPE)
user._token_uri = origin + "/oauth2/token"
user.refresh(transport)
assert user.token != service.token
machine = google.auth.compute_engine.Credentials()
machine.refresh(transport)
assert machine.token and machine.token != user.token
assert metadata.get_project_id(transport) == "emulated"
broken = google.oauth2.service_account.Credentials.from_service_account_info(
    {**account, "client_email": "nobody"}, scopes=SCOPE)
raises(google.auth.exceptions.RefreshError, lambda: broken.refresh(transport))
step("credentials")

# Direct calls.
vertex = client(service)
answer = vertex.models.generate_content(
    model=MODEL, contents="What is the capital of France?",
    config=types.GenerateContentConfig(system_instruction="Be brief.", temperature=0.1, labels={"tool": "sdk"}))
assert f"[prompt:{prompt_hash('Be brief.', 'What is the capital of France?')}]" in answer.text
assert answer.candidates[0].finish_reason == types.FinishReason.STOP
assert answer.usage_metadata.total_token_count > 0 and answer.response_id and answer.model_version == MODEL
beta = client(user, version="v1beta1")
thinking = beta.models.generate_content(model="gemini-2.5-flash", contents="hm")
assert thinking.usage_metadata.thoughts_token_count > 0
step("generate")

pieces = list(vertex.models.generate_content_stream(model=MODEL, contents="stream"))
assert len(pieces) > 1 and prompt_hash("stream") in "".join(piece.text or "" for piece in pieces)
assert pieces[-1].usage_metadata.total_token_count > 0
step("stream")

counted = vertex.models.count_tokens(model=MODEL, contents="how many tokens are these?")
assert counted.total_tokens == 7, counted
step("count tokens")

made = vertex.models.generate_content(model=MODEL, contents="structured", config=types.GenerateContentConfig(
    response_mime_type="application/json",
    response_schema={"type": "OBJECT", "properties": {"answer": {"type": "STRING"}, "score": {"type": "INTEGER"}},
                     "required": ["answer", "score"]}))
value = json.loads(made.text)
assert value["answer"] == f"[prompt:{prompt_hash('structured')}]" and isinstance(value["score"], int)
weather = types.Tool(function_declarations=[types.FunctionDeclaration(
    name="weather", parameters={"type": "OBJECT", "properties": {"city": {"type": "STRING"}}, "required": ["city"]})])
called = vertex.models.generate_content(model=MODEL, contents="weather", config=types.GenerateContentConfig(
    tools=[weather], automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    tool_config=types.ToolConfig(function_calling_config=types.FunctionCallingConfig(mode="ANY"))))
assert called.function_calls[0].name == "weather" and "city" in called.function_calls[0].args
blocked = vertex.models.generate_content(model=MODEL, contents="no [[refuse]]")
assert not blocked.candidates and blocked.prompt_feedback.block_reason == types.BlockedReason.PROHIBITED_CONTENT
filtered = vertex.models.generate_content(model=MODEL, contents="no [[filter]]")
assert filtered.candidates[0].finish_reason == types.FinishReason.SAFETY
step("schema, tools and blocked prompts")

names = [model.name for model in vertex.models.list()]
assert f"publishers/google/models/{MODEL}" in names, names
assert vertex.models.get(model=MODEL).name.endswith(MODEL)
step("models")

# Objects.
control_call("POST", "/faces/vertex", {"buckets": {"bkt": "US-CENTRAL1", "far": "EUROPE-WEST4"}, "elsewhere": None})
gcs = storage.Client(project="proj", credentials=service, client_options={"api_endpoint": origin + "/gcs"})
bucket = gcs.get_bucket("bkt")
assert bucket.location == "US-CENTRAL1"
raises(core.NotFound, lambda: gcs.get_bucket("none"))
small = bucket.blob("dir/small.txt")
small.upload_from_string("small", content_type="text/plain", if_generation_match=0)
raises(core.PreconditionFailed, lambda: small.upload_from_string("again", if_generation_match=0))
assert bucket.blob("dir/small.txt").download_as_bytes() == b"small"
assert bucket.blob("dir/small.txt").download_as_bytes(start=1, end=3) == b"mal"
large = os.urandom(1 << 20)
blob = bucket.blob("dir/large.bin", chunk_size=262_144)
with tempfile.TemporaryFile() as file:
    file.write(large)
    file.seek(0)
    blob.upload_from_file(file)
blob.reload()
assert blob.size == len(large) and blob.download_as_bytes() == large
found = [item.name for item in gcs.list_blobs("bkt", prefix="dir/", page_size=1)]
assert found == ["dir/large.bin", "dir/small.txt"], found
folders = gcs.list_blobs("bkt", delimiter="/")
assert list(folders) == [] and folders.prefixes == {"dir/"}
small.delete()
raises(core.NotFound, lambda: small.delete())
step("objects")

# A job to its end.
def line(custom_id, text):
    return json.dumps({"custom_id": custom_id, "request": {
        "contents": [{"role": "user", "parts": [{"text": text}]}], "generationConfig": {"maxOutputTokens": 64}}})


rows = [line(f"k-{n:06}", f"question {n}") for n in range(50)]
rows += [line("k-bad", "[[error:400]]"), line("k-no", "[[refuse]]"), line("000007", "typed")]
bucket.blob("job/in.jsonl").upload_from_string("\n".join(rows) + "\n")


def create(uri="gs://bkt/job/in.jsonl", dest="gs://bkt/job/out", name="job one"):
    return vertex.batches.create(
        model=MODEL, src=types.BatchJobSource(format="jsonl", gcs_uri=[uri]),
        config=types.CreateBatchJobConfig(
            display_name=name, dest=types.BatchJobDestination(format="jsonl", gcs_uri=dest)))


job = create()
assert job.state == types.JobState.JOB_STATE_PENDING and "/batchPredictionJobs/" in job.name
assert not job.name.startswith("projects/proj/") and job.display_name == "job one"
seen = [job.state]
while job.state.name not in ("JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED"):
    control_call("POST", "/clock", {"advance": "20s"})
    job = vertex.batches.get(name=job.name)
    if job.state != seen[-1]:
        seen.append(job.state)
assert [state.name for state in seen] == ["JOB_STATE_PENDING", "JOB_STATE_RUNNING", "JOB_STATE_SUCCEEDED"], seen
assert (job.completion_stats.successful_count, job.completion_stats.failed_count) == (52, 1)
folder = job.output_info.gcs_output_directory
assert folder.startswith("gs://bkt/job/out/prediction-model-") and ":" in folder.rsplit("/", 1)[1]
prefix = folder.removeprefix("gs://bkt/")
objects = {item.name.rsplit("/", 1)[1] for item in gcs.list_blobs("bkt", prefix=prefix + "/")}
assert {"predictions.jsonl", "incremental_predictions.jsonl", "row_count.json"} <= objects, objects
results = bucket.blob(prefix + "/predictions.jsonl").download_as_text().splitlines()
results = [json.loads(text) for text in results]
by_id = {row["custom_id"]: row for row in results}
assert len(results) == 53 and [row["custom_id"] for row in results][:50] != [f"k-{n:06}" for n in range(50)]
for n in range(50):
    row = by_id[f"k-{n:06}"]
    read = types.GenerateContentResponse.model_validate(row["response"])
    assert row["status"] == "" and prompt_hash(f"question {n}") in read.text
    assert row["request"]["contents"][0]["parts"][0]["fileData"] is None
assert by_id["k-bad"]["status"].startswith("Bad Request: {") and by_id["k-bad"]["response"] == {}
assert by_id["k-no"]["status"] == "" and "candidates" not in by_id["k-no"]["response"]
assert 7 in by_id, "an id that looks like a number is one"
invoice = [json.loads(text) for text in control_call("GET", "/invoice").decode().splitlines()]
assert sum(unit["lane"] == "batch" for unit in invoice) == 52
step("job")

# Lists, cancelling, deleting.
others = [create(name=f"other {n}") for n in range(3)]
listed = [found.display_name for found in vertex.batches.list(config={"page_size": 2})]
assert listed == ["other 2", "other 1", "other 0", "job one"], listed
named = vertex.batches.list(config={"filter": 'display_name="other 1" AND state="JOB_STATE_PENDING"'})
assert [found.display_name for found in named] == ["other 1"]
raises(errors.ClientError, lambda: vertex.batches.delete(name=others[0].name), 400)
for other in others:
    vertex.batches.cancel(name=other.name)
assert vertex.batches.get(name=others[0].name).state == types.JobState.JOB_STATE_CANCELLING
control_call("POST", "/clock", {"advance": "10m"})
ended = vertex.batches.get(name=others[0].name)
assert ended.state == types.JobState.JOB_STATE_CANCELLED and ended.error.code == 1
raises(errors.ClientError, lambda: vertex.batches.cancel(name=others[0].name), 400)
assert vertex.batches.delete(name=others[0].name).done
raises(errors.ClientError, lambda: vertex.batches.get(name=others[0].name), 404)
step("lists, cancelling, deleting")

# What is told late: a bucket elsewhere, an input that is not there, lines no table holds.
bucket.blob("job/empty.jsonl").upload_from_string('{"custom_id":"a","request":{"contents":[{}]}}\n')
late = [create(dest="gs://far/out"), create(dest="gs://none/out"), create(uri="gs://bkt/none"),
        create(uri="gs://bkt/job/empty.jsonl")]
control_call("POST", "/clock", {"advance": "1m"})
codes = []
for failed in late:
    failed = vertex.batches.get(name=failed.name)
    assert failed.state == types.JobState.JOB_STATE_FAILED, failed
    codes.append(failed.error.code)
assert codes == [9, 9, 3, 3], codes
step("late failures")

# Errors.
raises(errors.ClientError, lambda: vertex.models.generate_content(model="gemini-0", contents="x"), 404)
raises(errors.ClientError, lambda: vertex.models.generate_content(
    model=MODEL, contents="x", config=types.GenerateContentConfig(temperature=3)), 400)
raises(errors.ClientError, lambda: vertex.models.generate_content(model=MODEL, contents="[[error:429]]"), 429)
raises(errors.ServerError, lambda: vertex.models.generate_content(model=MODEL, contents="[[error:503]]"), 503)
stranger = client(service, project="else")
error = raises(errors.ClientError, lambda: stranger.models.count_tokens(model=MODEL, contents="x"), 403)
assert error.status == "PERMISSION_DENIED"
bad = client(google.oauth2.credentials.Credentials(token="not well formed"))
raises(errors.ClientError, lambda: bad.models.count_tokens(model=MODEL, contents="x"), 401)
control_call("POST", "/clock", {"advance": "2h"})
raises(errors.ClientError, lambda: vertex.batches.get(name=job.name), 401)
service.refresh(transport)
assert vertex.batches.get(name=job.name).state == types.JobState.JOB_STATE_SUCCEEDED
step("errors")
