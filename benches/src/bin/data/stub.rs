//! OpenAI without a network: everything is taken at once, and nothing ends.

use async_trait::async_trait;
use batchwright_core::{
    BatchHandle, BatchProvider, BatchSnapshot, BatchStatus, BatchSummary, ByteStream, Capability,
    Error, ErrorKind, InputRef, ListMark, Outcome, Request, Result, ResultFile, SealedBatch,
    SubmissionTag, SubmitError,
};
use batchwright_provider_openai::OpenAi;
use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

pub(crate) struct Stub {
    inner: OpenAi,
    /// Batches so far.
    count: AtomicU64,
    /// The thread that encodes, by its folder under `/proc/self/task`.
    encoder: OnceLock<String>,
}

impl Stub {
    pub(crate) fn new() -> Result<Self> {
        let builder = OpenAi::builder("sk-none").base_url("http://127.0.0.1:1/v1");
        Ok(Self {
            inner: builder.build()?,
            count: AtomicU64::new(0),
            encoder: OnceLock::new(),
        })
    }

    /// The id of the thread that encoded, once it did.
    pub(crate) fn encoder(&self) -> Option<&str> {
        self.encoder.get().map(String::as_str)
    }

    fn inner(&self) -> &dyn BatchProvider {
        &self.inner
    }
}

#[async_trait]
impl BatchProvider for Stub {
    fn name(&self) -> &str {
        self.inner().name()
    }

    fn capability(&self) -> &Capability {
        self.inner().capability()
    }

    fn endpoint<'r>(&'r self, request: &'r Request) -> Result<&'r str> {
        self.inner().endpoint(request)
    }

    fn encode(&self, request: &Request, wire_id: &str, line: &mut Vec<u8>) -> Result<()> {
        self.encoder.get_or_init(|| {
            let thread = std::fs::read_link("/proc/thread-self").unwrap_or_default();
            let name = thread.file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        });
        self.inner().encode(request, wire_id, line)
    }

    fn decode(&self, line: &[u8]) -> Option<Outcome> {
        self.inner().decode(line)
    }

    async fn upload(&self, _: &SealedBatch, tag: &SubmissionTag) -> Result<InputRef> {
        Ok(InputRef(format!("file-{}", tag.chunk())))
    }

    async fn find_upload(&self, _: &SealedBatch, _: &SubmissionTag) -> Result<Option<InputRef>> {
        Ok(None)
    }

    async fn submit(
        &self,
        _: &SealedBatch,
        input: &InputRef,
        _: &SubmissionTag,
    ) -> Result<BatchHandle, SubmitError> {
        let number = self.count.fetch_add(1, Relaxed);
        let name = self.inner().name();
        Ok(BatchHandle::new(
            name,
            format!("batch-{number}"),
            input.clone(),
        ))
    }

    async fn status(&self, batch: &BatchHandle) -> Result<BatchSnapshot> {
        Ok(BatchSnapshot::new(batch.clone(), BatchStatus::InProgress))
    }

    async fn download(&self, _: &ResultFile, _: u64) -> Result<ByteStream> {
        Err(Error::new(ErrorKind::Unsupported, "nothing ends here"))
    }

    async fn cancel(&self, _: &BatchHandle) -> Result<()> {
        Ok(())
    }

    async fn recent(&self) -> Result<Vec<BatchSummary>> {
        Ok(Vec::new())
    }

    async fn list_since(&self, _: &ListMark) -> Result<Vec<BatchSummary>> {
        Ok(Vec::new())
    }
}
