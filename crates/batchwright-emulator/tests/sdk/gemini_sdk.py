"""Drives the emulator with Google's google-genai package: python gemini_sdk.py BASE_URL

BASE_URL is what the face of Gemini has, for example http://127.0.0.1:4711/gemini.
Ends with status 0 and one line per step, or with a traceback.
"""

import hashlib
import io
import json
import sys
import urllib.request

from google import genai
from google.genai import errors, types

base_url = sys.argv[1]
control = base_url.split("/gemini")[0] + "/emulator"
MODEL = "gemini-2.5-flash"


clients = []  # One that is collected closes its connections.


def connect(key="sdk-key", version="v1beta"):
    options = types.HttpOptions(base_url=base_url, api_version=version)
    clients.append(genai.Client(api_key=key, vertexai=False, http_options=options))
    return clients[-1]



client = connect()


def step(name):
    print("ok", name)


def control_call(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(control + path, data=data, method=method)
    with urllib.request.urlopen(request) as answer:
        return answer.read()


def prompt_hash(*texts):
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]


def raises(kind, call, code, status):
    try:
        call()
    except kind as error:
        assert (error.code, error.status) == (code, status), error
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def until(batch, *states):
    """The batch when it is in one of these states; time moves meanwhile."""
    seen = []
    for _ in range(200):
        batch = client.batches.get(name=batch.name)
        if not seen or seen[-1] != batch.state.name:
            seen.append(batch.state.name)
        if batch.state.name in states:
            return batch, seen
        control_call("POST", "/clock", {"advance": "10s"})
    raise AssertionError(seen)


control_call("POST", "/reset")
control_call("POST", "/clock", {"time_scale": 0})

# Models.
assert f"models/{MODEL}" in [model.name for model in client.models.list(config={"page_size": 2})]
assert client.models.get(model=MODEL).input_token_limit == 1_048_576
step("models")

# generateContent.
answer = client.models.generate_content(model=MODEL, contents="What is the capital of France?")
assert f"[prompt:{prompt_hash('What is the capital of France?')}]" in answer.text
assert answer.candidates[0].finish_reason == types.FinishReason.STOP
usage = answer.usage_metadata
assert usage.thoughts_token_count > 0 and answer.model_version == MODEL and answer.response_id
assert usage.total_token_count == (
    usage.prompt_token_count + usage.candidates_token_count + usage.thoughts_token_count)
answer = connect(version="v1").models.generate_content(
    model=MODEL, contents="plain", config={"system_instruction": "Be brief.", "temperature": 0, "max_output_tokens": 256,
                                           "thinking_config": {"thinking_budget": 0}})
assert prompt_hash("Be brief.", "plain") in answer.text and answer.usage_metadata.thoughts_token_count is None
step("generate content")

text, last = "", None
for chunk in client.models.generate_content_stream(model=MODEL, contents="stream"):
    text += chunk.text or ""
    last = chunk
assert prompt_hash("stream") in text and last.candidates[0].finish_reason == types.FinishReason.STOP
assert last.usage_metadata.candidates_token_count > 0
step("stream")

schema = {"type": "object", "properties": {"answer": {"type": "string"}, "score": {"type": "integer"}},
          "required": ["answer", "score"], "additionalProperties": False}
answer = client.models.generate_content(
    model=MODEL, contents="structured",
    config={"response_mime_type": "application/json", "response_json_schema": schema})
made = json.loads(answer.text)
assert made["answer"] == f"[prompt:{prompt_hash('structured')}]" and isinstance(made["score"], int)
answer = client.models.generate_content(
    model=MODEL, contents="typed",
    config=types.GenerateContentConfig(
        response_mime_type="application/json",
        response_schema=types.Schema(type="OBJECT", properties={"city": types.Schema(type="STRING")},
                                     required=["city"])))
assert json.loads(answer.text)["city"]
step("structured output")

tool = types.Tool(function_declarations=[types.FunctionDeclaration(
    name="weather", parameters_json_schema={"type": "object", "properties": {"city": {"type": "string"}},
                                            "required": ["city"]})])
answer = client.models.generate_content(
    model=MODEL, contents="weather",
    config=types.GenerateContentConfig(
        tools=[tool], automatic_function_calling={"disable": True},
        tool_config=types.ToolConfig(function_calling_config=types.FunctionCallingConfig(mode="ANY"))))
called = answer.function_calls[0]
assert called.name == "weather" and "city" in called.args
assert answer.candidates[0].content.parts[0].thought_signature
turn = client.models.generate_content(
    model=MODEL,
    contents=[types.Content(role="user", parts=[types.Part(text="weather")]), answer.candidates[0].content,
              types.Content(role="user", parts=[types.Part.from_function_response(
                  name="weather", response={"result": "sun"})])],
    config=types.GenerateContentConfig(tools=[tool], automatic_function_calling={"disable": True}))
assert prompt_hash("weather") in turn.text
step("tools")

blocked = client.models.generate_content(model=MODEL, contents="no [[refuse]]")
assert not blocked.candidates and blocked.prompt_feedback.block_reason.name == "PROHIBITED_CONTENT"
cut = client.models.generate_content(model=MODEL, contents="[[length]]", config={"max_output_tokens": 100})
assert cut.candidates[0].finish_reason.name == "MAX_TOKENS" and cut.text is None
stopped = client.models.generate_content(model=MODEL, contents="[[filter]]")
assert stopped.candidates[0].finish_reason.name == "SAFETY"
step("endings")

# Counting and embedding.
assert client.models.count_tokens(model=MODEL, contents="x" * 40).total_tokens == 10
vectors = client.models.embed_content(
    model="gemini-embedding-001", contents=["a", "b"], config={"output_dimensionality": 8, "task_type": "CLUSTERING"})
assert [len(vector.values) for vector in vectors.embeddings] == [8, 8]
step("counting and embedding")

# Cached contents.
long = "long document " * 500
cache = client.caches.create(model=MODEL, config={"contents": long, "system_instruction": "You know it.",
                                                  "display_name": "ctx", "ttl": "600s"})
assert cache.name.startswith("cachedContents/") and cache.usage_metadata.total_token_count > 1024
answer = client.models.generate_content(model=MODEL, contents="ask", config={"cached_content": cache.name})
assert prompt_hash("You know it.", long, "ask") in answer.text
assert answer.usage_metadata.cached_content_token_count == cache.usage_metadata.total_token_count
later = client.caches.update(name=cache.name, config={"ttl": "7200s"})
assert later.expire_time > cache.expire_time
assert [found.name for found in client.caches.list()] == [cache.name]
small = raises(errors.ClientError, lambda: client.caches.create(model=MODEL, config={"contents": "short"}),
               400, "INVALID_ARGUMENT")
assert "too small" in small.message
client.caches.delete(name=cache.name)
raises(errors.ClientError, lambda: client.caches.get(name=cache.name), 403, "PERMISSION_DENIED")
step("cached contents")

# Files.
lines = [{"key": f"r-{n}", "request": {"contents": [{"role": "user", "parts": [{"text": f"question {n}"}]}],
                                       "generation_config": {"max_output_tokens": 500}}} for n in range(200)]
lines.append({"key": "hot", "request": {"contents": [{"parts": [{"text": "x"}]}],
                                        "generationConfig": {"temperature": 9}}})
content = "".join(json.dumps(line) + "\n" for line in lines).encode()
padding = b" " * (9 << 20)  # More than one piece of the package's.


def upload(data, name):
    return client.files.upload(file=io.BytesIO(data), config={"display_name": name, "mime_type": "application/jsonl"})


file = upload(content, "job-7")
assert file.name.startswith("files/") and file.size_bytes == len(content) and file.state.name == "ACTIVE"
big = upload(padding, "big")
assert client.files.get(name=big.name).size_bytes == len(padding)
assert {found.display_name for found in client.files.list(config={"page_size": 1})} == {"job-7", "big"}
client.files.delete(name=big.name)
raises(errors.ClientError, lambda: client.files.get(name=big.name), 403, "PERMISSION_DENIED")
step("files")

# A batch of a file to its end.
batch = client.batches.create(model=MODEL, src=file.name, config={"display_name": "job-7"})
assert batch.name.startswith("batches/") and batch.state.name == "JOB_STATE_PENDING" and batch.display_name == "job-7"
batch, seen = until(batch, "JOB_STATE_SUCCEEDED")
assert seen == ["JOB_STATE_PENDING", "JOB_STATE_RUNNING", "JOB_STATE_SUCCEEDED"], seen
assert batch.end_time >= batch.create_time and batch.model == f"models/{MODEL}"
rows = [json.loads(line) for line in client.files.download(file=batch.dest.file_name).decode().splitlines()]
assert len(rows) == 201
for row in rows:
    if row["key"] == "hot":
        assert row["error"]["code"] == 3
    else:
        said = row["response"]["candidates"][0]["content"]["parts"][0]["text"]
        assert prompt_hash(f"question {row['key'].split('-')[1]}") in said
raises(errors.ClientError, lambda: client.files.get(name=batch.dest.file_name), 400, "INVALID_ARGUMENT")
invoice = [json.loads(line) for line in control_call("GET", "/invoice").decode().splitlines()]
bought = [line for line in invoice if line["lane"] == "batch"]
assert len(bought) == 200 and all(line["face"] == "gemini" for line in bought)
step("batch of a file")

# One that carries its requests.
inline = client.batches.create(model=MODEL, config={"display_name": "inline"}, src=[
    {"contents": [{"role": "user", "parts": [{"text": f"inline {n}"}]}], "metadata": {"key": f"i-{n}"},
     "config": {"temperature": 0.5}} for n in range(3)])
inline, _ = until(inline, "JOB_STATE_SUCCEEDED")
assert len(inline.dest.inlined_responses) == 3
for one in inline.dest.inlined_responses:
    assert prompt_hash(f"inline {one.metadata['key'][2:]}") in one.response.text
step("batch inline")

# Embeddings.
source = upload(b'{"key":"e-1","request":{"content":{"parts":[{"text":"a"}]},"output_dimensionality":8}}\n', "e")
embeds = client.batches.create_embeddings(model="gemini-embedding-001", src={"file_name": source.name},
                                          config={"display_name": "e"})
embeds, _ = until(embeds, "JOB_STATE_SUCCEEDED")
row = json.loads(client.files.download(file=embeds.dest.file_name))
assert row["key"] == "e-1" and len(row["response"]["embedding"]["values"]) == 8
assert row["response"]["tokenCount"] == "1"
embeds = client.batches.create_embeddings(
    model="gemini-embedding-001", config={"display_name": "f"},
    src={"inlined_requests": {"contents": [{"parts": [{"text": "a"}]}], "config": {"output_dimensionality": 8}}})
embeds, _ = until(embeds, "JOB_STATE_SUCCEEDED")
assert len(embeds.dest.inlined_embed_content_responses[0].response.embedding.values) == 8
step("embeddings batch")

# Paging, cancelling, deleting.
others = [client.batches.create(model=MODEL, src=file.name, config={"display_name": f"o-{n}"}) for n in range(3)]
listed = [found.name for found in client.batches.list(config={"page_size": 2})]
assert listed[:3] == [found.name for found in reversed(others)] and len(listed) == 7, listed
for other in others:
    client.batches.cancel(name=other.name)
cancelled, seen = until(others[0], "JOB_STATE_CANCELLED")
assert cancelled.dest is None
client.batches.delete(name=others[0].name)
raises(errors.ClientError, lambda: client.batches.get(name=others[0].name), 404, "NOT_FOUND")
raises(errors.ClientError, lambda: client.batches.delete(name=others[0].name), 404, "NOT_FOUND")
control_call("POST", "/faults", {"rules": [
    {"match": {"path": "*:batchGenerateContent"}, "times": 1, "actions": [{"expire_after_rows": 5}]}]})
late = client.batches.create(model=MODEL, src=file.name, config={"display_name": "late"})
control_call("POST", "/clock", {"advance": "47h"})
assert client.batches.get(name=late.name).state.name == "JOB_STATE_RUNNING"
control_call("POST", "/clock", {"advance": "2h"})
late = client.batches.get(name=late.name)
assert late.state.name == "JOB_STATE_EXPIRED" and late.dest is None
raises(errors.ClientError, lambda: client.files.get(name=file.name), 403, "PERMISSION_DENIED")
step("paging, cancelling, deleting, expiring")

# Errors.
bad = raises(errors.ClientError, lambda: connect("not well formed").models.get(model=MODEL), 400, "INVALID_ARGUMENT")
assert bad.details["error"]["details"][0]["reason"] == "API_KEY_INVALID"


def ask(text, **config):
    return lambda: client.models.generate_content(model=MODEL, contents=text, config=config or None)


raises(errors.ClientError, lambda: client.models.generate_content(model="gemini-0", contents="x"), 404, "NOT_FOUND")
raises(errors.ClientError, ask("x", temperature=3), 400, "INVALID_ARGUMENT")
raises(errors.ClientError, ask("x" * 5_000_000), 400, "INVALID_ARGUMENT")
limited = raises(errors.ClientError, ask("[[error:429]]"), 429, "RESOURCE_EXHAUSTED")
kinds = [detail["@type"].rsplit(".", 1)[1] for detail in limited.details["error"]["details"]]
assert kinds == ["QuotaFailure", "Help", "RetryInfo"], kinds
raises(errors.ServerError, ask("[[error:500]]"), 500, "INTERNAL")
raises(errors.ServerError, ask("[[error:503]]"), 503, "UNAVAILABLE")
raises(errors.ServerError, ask("[[error:504]]"), 504, "DEADLINE_EXCEEDED")
control_call("POST", "/faces/gemini", {"errors": "list"})
raises(errors.ClientError, ask("[[error:403]]"), 403, "PERMISSION_DENIED")
control_call("POST", "/faces/gemini", {"errors": "object"})
broken = upload(b'{"key":"a","request":{"contents":[{"parts":[{"text":"x"}]}],"colour":1}}\n', "broken")
refused = raises(errors.ClientError, lambda: client.batches.create(
    model=MODEL, src=broken.name, config={"display_name": "b"}), 400, "INVALID_ARGUMENT")
assert "colour" in refused.message
raises(errors.ClientError, lambda: client.batches.create(
    model=MODEL, src="files/none", config={"display_name": "b"}), 403, "PERMISSION_DENIED")
step("errors")
