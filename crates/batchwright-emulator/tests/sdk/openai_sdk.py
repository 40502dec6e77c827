"""Drives the emulator with the official OpenAI package: python openai_sdk.py BASE_URL

BASE_URL is what the `serve` example prints, for example http://127.0.0.1:4711/openai/v1.
Ends with status 0 and one line per step, or with a traceback.
"""

import hashlib
import io
import json
import sys
import time
import urllib.request

import openai

base_url = sys.argv[1]
control = base_url.split("/openai/")[0] + "/emulator"
client = openai.OpenAI(base_url=base_url, api_key="sk-sdk", max_retries=0)


def step(name):
    print("ok", name)


def control_call(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(control + path, data=data, method=method)
    with urllib.request.urlopen(request) as answer:
        return answer.read()


def prompt_hash(*texts):
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def user(text):
    return [{"role": "user", "content": text}]


control_call("POST", "/reset")

# Models.
assert "gpt-4o-mini" in [model.id for model in client.models.list()]
assert client.models.retrieve("gpt-4o-mini").id == "gpt-4o-mini"
step("models")

# Chat.
chat = client.chat.completions.create(model="gpt-4o-mini", messages=user("What is the capital of France?"))
assert f"[prompt:{prompt_hash('What is the capital of France?')}]" in chat.choices[0].message.content
assert chat.choices[0].finish_reason == "stop" and chat.usage.total_tokens > 0
assert chat.model == "gpt-4o-mini-2024-07-18" and chat._request_id.startswith("req_")
step("chat")

stream = client.chat.completions.create(
    model="gpt-4o-mini", messages=user("stream"), stream=True, stream_options={"include_usage": True}
)
text, usage = "", None
for chunk in stream:
    if chunk.choices:
        text += chunk.choices[0].delta.content or ""
    usage = chunk.usage or usage
assert prompt_hash("stream") in text and usage.total_tokens > 0
step("chat stream")

tools = [{"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]
chat = client.chat.completions.create(
    model="gpt-4o-mini", messages=user("weather"), tools=tools, tool_choice="required"
)
call = chat.choices[0].message.tool_calls[0]
assert chat.choices[0].finish_reason == "tool_calls" and "city" in json.loads(call.function.arguments)
chat = client.chat.completions.create(model="gpt-4o-mini", messages=user("no [[refuse]]"))
assert chat.choices[0].message.refusal and chat.choices[0].message.content is None
step("tools and refusal")

schema = {"type": "object", "properties": {"answer": {"type": "string"}, "score": {"type": "integer"}},
          "required": ["answer", "score"], "additionalProperties": False}
chat = client.chat.completions.create(
    model="gpt-4o-mini", messages=user("structured"),
    response_format={"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": schema}},
)
made = json.loads(chat.choices[0].message.content)
assert made["answer"] == f"[prompt:{prompt_hash('structured')}]" and isinstance(made["score"], int)
step("structured output")

# Responses and embeddings.
response = client.responses.create(model="gpt-5-mini", input="Hi", instructions="Be brief.")
assert prompt_hash("Be brief.", "Hi") in response.output_text and response.status == "completed"
assert response.usage.output_tokens_details.reasoning_tokens > 0
step("responses")

vectors = client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
assert [len(item.embedding) for item in vectors.data] == [1536, 1536]
assert abs(sum(x * x for x in vectors.data[0].embedding) - 1) < 1e-3
plain = client.embeddings.create(model="text-embedding-3-small", input="a", encoding_format="float", dimensions=8)
assert len(plain.data[0].embedding) == 8
step("embeddings")

# Files.
lines = [
    json.dumps({"custom_id": f"r-{n}", "method": "POST", "url": "/v1/chat/completions",
                "body": {"model": "gpt-4o-mini", "messages": user(f"question {n}")}})
    for n in range(200)
]
lines.append(json.dumps({"custom_id": "hot", "method": "POST", "url": "/v1/chat/completions",
                         "body": {"model": "gpt-4o-mini", "messages": user("x"), "temperature": 9}}))
content = ("\n".join(lines) + "\n").encode()
file = client.files.create(file=("shard.jsonl", io.BytesIO(content)), purpose="batch")
assert file.id.startswith("file-") and file.bytes == len(content) and file.purpose == "batch"
assert client.files.retrieve(file.id).filename == "shard.jsonl"
assert client.files.content(file.id).read() == content
assert file.id in [found.id for found in client.files.list(purpose="batch", limit=1)]
step("files")

# A batch to its end.
batch = client.batches.create(
    input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"run": "sdk"}
)
assert batch.id.startswith("batch_") and batch.status == "validating" and batch.metadata == {"run": "sdk"}
seen, deadline = [], time.time() + 60
while batch.status not in ("completed", "failed", "expired", "cancelled"):
    assert time.time() < deadline, batch
    time.sleep(0.02)
    batch = client.batches.retrieve(batch.id)
    if not seen or seen[-1] != batch.status:
        seen.append(batch.status)
assert seen == ["validating", "in_progress", "finalizing", "completed"], seen
counts = batch.request_counts
assert (counts.total, counts.completed, counts.failed) == (201, 200, 1), counts
rows = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
assert len(rows) == 200 and [row["custom_id"] for row in rows] != [f"r-{n}" for n in range(200)]
for row in rows:
    number = row["custom_id"].split("-")[1]
    said = row["response"]["body"]["choices"][0]["message"]["content"]
    assert prompt_hash(f"question {number}") in said
failed = [json.loads(line) for line in client.files.content(batch.error_file_id).text.splitlines()]
assert failed[0]["custom_id"] == "hot" and failed[0]["response"]["status_code"] == 400
assert batch.usage.total_tokens == sum(row["response"]["body"]["usage"]["total_tokens"] for row in rows)
invoice = [json.loads(line) for line in control_call("GET", "/invoice").decode().splitlines()]
assert sum(line["lane"] == "batch" for line in invoice) == 200
step("batch")

# Paging and cancelling.
others = [client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
          for _ in range(3)]
listed = [found.id for found in client.batches.list(limit=1)]
assert listed == [found.id for found in reversed(others)] + [batch.id], listed
for other in others:
    assert client.batches.cancel(other.id).status == "cancelling"
control_call("POST", "/clock", {"advance": "10m"})
assert {client.batches.retrieve(other.id).status for other in others} == {"cancelled"}
step("paging and cancelling")

# Errors.
error = raises(openai.AuthenticationError, lambda: openai.OpenAI(
    base_url=base_url, api_key="not well formed", max_retries=0).models.list())
assert error.code == "invalid_api_key"
error = raises(openai.NotFoundError, lambda: client.chat.completions.create(model="gpt-0", messages=user("x")))
assert error.code == "model_not_found"
raises(openai.NotFoundError, lambda: client.files.retrieve("file-none"))
raises(openai.NotFoundError, lambda: client.batches.retrieve("batch_none"))
error = raises(openai.BadRequestError, lambda: client.chat.completions.create(
    model="gpt-4o-mini", messages=user("x"), temperature=3))
assert (error.param, error.code) == ("temperature", "invalid_value")
error = raises(openai.BadRequestError, lambda: client.chat.completions.create(
    model="gpt-4o-mini", messages=user("x" * 600_000)))
assert error.code == "context_length_exceeded"
raises(openai.BadRequestError, lambda: client.files.create(file=("a.csv", b"x"), purpose="batch"))
raises(openai.ConflictError, lambda: client.batches.cancel(batch.id))
error = raises(openai.RateLimitError, lambda: client.chat.completions.create(
    model="gpt-4o-mini", messages=user("[[error:429]]")))
assert error.response.headers["retry-after"] == "1"
raises(openai.InternalServerError, lambda: client.chat.completions.create(
    model="gpt-4o-mini", messages=user("[[error:500]]")))
control_call("POST", "/faults", {"rules": [
    {"match": {"method": "GET", "path": "*/models"}, "times": 1, "actions": ["commit_then_drop"]}]})
raises(openai.APIConnectionError, lambda: client.models.list())
assert client.models.list().data
step("errors")

assert client.files.delete(file.id).deleted
raises(openai.NotFoundError, lambda: client.files.content(file.id))
step("delete")
