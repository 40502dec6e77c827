//! What the programs in `src/bin` share: an emulator, answers a model should not have given, and the proof that what a

//! program shows is so.

#![expect(clippy::print_stdout, reason = "what a program prints is its output")]

use batchwright::{
    core::Usage,
    emulator::{Emulator, FaultAction, FaultRule, InvoiceLine, Nth, Reply},
    realtime::Summary,
};
use serde_json::{Value, json};
use std::error::Error;

/// How a program ends: what it shows is so, or why not.
pub type Shown<T = ()> = Result<T, Box<dyn Error>>;

/// Ends the program with exit code 1 where what it shows is not so.
///
/// # Errors
/// `what`, where it does not hold.
pub fn must(holds: bool, what: &str) -> Shown {
    if holds {
        Ok(())
    } else {
        Err(format!("it does not hold that {what}").into())
    }
}

/// Holds a run against the emulator's invoice: each row answered, each bought once, and the tokens and the money the
/// run counted are those that were billed.
///
/// # Errors
/// What does not agree.
pub async fn agrees<T, C>(emulator: &Emulator, summary: &Summary<T, C>) -> Shown {
    let invoice = emulator.invoice().await?;
    let billed = invoice.iter().fold(Usage::of(0, 0), |mut sum, line| {
        sum.add(&Usage::of(line.input_tokens, line.output_tokens));
        sum
    });
    let dollars: f64 = invoice.iter().map(|line| line.price_usd).sum();
    println!("invoice: {} lines, ${dollars:.6}", invoice.len());
    let used = summary.usage();
    must(summary.is_complete(), "every row of the source ended")?;
    must(summary.failed() == 0, "every row was answered")?;
    must(invoice.len() == summary.total(), "each row was bought once")?;
    must(
        used.input_tokens == billed.input_tokens && used.output_tokens == billed.output_tokens,
        "the tokens counted are those billed",
    )?;
    must(
        (summary.metrics.cost.as_dollars() - dollars).abs() < 1e-9,
        "the cost counted is what was billed",
    )
}

/// How many lines of the invoice are for each of these models, whose dated versions begin with the name.
pub fn lines_of<const N: usize>(invoice: &[InvoiceLine], models: [&str; N]) -> [usize; N] {
    models.map(|model| {
        let is_it = |line: &&InvoiceLine| {
            let dated = line.model.strip_prefix(model);
            dated.is_some_and(|rest| rest.is_empty() || rest.starts_with("-20"))
        };
        invoice.iter().filter(is_it).count()
    })
}

/// Makes the model say `text` wherever a call's body contains `about`: to the first `times` calls, or to all.
/// The call is billed, as a poor answer is.
pub fn misfit(face: Misfit, about: &str, times: Option<u64>, text: &str) -> FaultRule {
    let mut rule =
        FaultRule::on("POST", face.path()).action(FaultAction::CommitThenReply(face.reply(text)));
    rule.matches.body_contains = Some(about.to_owned());
    if let Some(to) = times {
        rule = rule.nth(Nth::Range {
            from: 1,
            to: Some(to),
        });
    }
    rule
}

/// Whose protocol a misfitting answer is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Misfit {
    /// OpenAI's chat completions.
    OpenAi,
    /// Gemini's `generateContent`.
    Gemini,
}

impl Misfit {
    fn path(self) -> &'static str {
        match self {
            Self::OpenAi => "/openai/v1/chat/completions",
            Self::Gemini => "*:generateContent",
        }
    }

    fn reply(self, text: &str) -> Reply {
        Reply::status(200).with_body(self.body(text))
    }

    fn body(self, text: &str) -> Value {
        match self {
            Self::OpenAi => json!({
                "id": "chatcmpl-misfit",
                "object": "chat.completion",
                "created": 1_760_000_000,
                "choices": [{
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": "stop",
                }],
                "usage": {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30},
            }),
            Self::Gemini => json!({
                "candidates": [{
                    "index": 0,
                    "content": {"role": "model", "parts": [{"text": text}]},
                    "finishReason": "STOP",
                }],
                "usageMetadata": {"promptTokenCount": 20, "candidatesTokenCount": 10, "totalTokenCount": 30},
            }),
        }
    }
}
