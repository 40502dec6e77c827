//! The page at `/emulator`: what happens in here, for people.
//!
//! It works without a script (it then loads itself anew) and a little better with one. Everything on it is escaped, and
//! nothing comes from elsewhere.

use std::fmt::{self, Write as _};
use std::io;

use axum::http::{HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};

use crate::answer::base64;
use crate::batch::BatchRecord;
use crate::clock::rfc3339;
use crate::engine::Engine;
use crate::face::Face;
use crate::invoice::{InvoiceLine, last_lines};
use crate::seed::sha256;

/// Batches that are shown, the newest.
const BATCHES: usize = 50;
/// Invoice lines that are shown, the newest.
const LINES: usize = 20;
/// Batches whose invoices are looked at for the newest lines.
const LOOKED_AT: usize = 10;

const STYLE: &str = "\
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:72rem;padding:1rem 1.5rem;color:#1b1f24;background:#fbfbfa}\
h1{font-size:1.35rem}h2{font-size:1.05rem;margin:1.6rem 0 .4rem}\
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\
th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid #e3e3df;vertical-align:top}\
th{font-weight:600;color:#555}td.n,th.n{text-align:right}code{font:13px ui-monospace,monospace;overflow-wrap:anywhere}\
form{display:inline}button{font:inherit;padding:.25rem .7rem;margin:0 .2rem .2rem 0;cursor:pointer}\
.quiet{color:#777}.state{font-weight:600}";

/// Puts the new page's content in place of the old one once a second, instead of loading the page anew.
const SCRIPT: &str = "\
setInterval(async()=>{if(document.hidden)return;try{const r=await fetch('/emulator');\
const d=new DOMParser().parseFromString(await r.text(),'text/html');\
document.querySelector('main').replaceWith(d.querySelector('main'))}catch{}},1000)";

/// The page as of now.
pub(crate) fn page(engine: &Engine) -> io::Result<Response> {
    let mut html = String::with_capacity(16 << 10);
    write(&mut html, engine)?;
    let mut response = Html(html).into_response();
    let script = base64(&sha256(SCRIPT.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{script}'; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    );
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::try_from(policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    Ok(response)
}

macro_rules! put {
    ($html:expr, $($arg:tt)*) => {
        write!($html, $($arg)*).expect("writing to a string does not fail")
    };
}

fn write(html: &mut String, engine: &Engine) -> io::Result<()> {
    put!(
        html,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Batchwright emulator</title>\
         <noscript><meta http-equiv=\"refresh\" content=\"2\"></noscript><style>{STYLE}</style></head><body><main>\
         <h1>Batchwright emulator</h1>"
    );
    clock(html, engine);
    requests(html, engine);
    batches(html, engine);
    invoice(html, engine)?;
    faults(html, engine);
    put!(html, "</main><script>{SCRIPT}</script></body></html>");
    Ok(())
}

fn clock(html: &mut String, engine: &Engine) {
    put!(
        html,
        "<h2>Virtual time</h2><p><code>{}</code> <span class=\"quiet\">runs {} virtual seconds per real second</span></p>",
        Escaped(&rfc3339(engine.clock.now_ms())),
        engine.clock.scale()
    );
    for span in ["1m", "10m", "1h", "24h", "7d", "30d"] {
        put!(
            html,
            "<form method=\"post\" action=\"/emulator/clock\"><button name=\"advance\" value=\"{span}\">+{span}</button></form>"
        );
    }
}

fn requests(html: &mut String, engine: &Engine) {
    let traffic = engine.traffic.to_json();
    put!(
        html,
        "<h2>Requests</h2><p class=\"quiet\">{} connections open, {} requests in flight (at most {}), {} to unknown \
         paths</p>",
        traffic["connections"]["open"],
        traffic["in_flight"]["open"],
        traffic["in_flight"]["peak"],
        traffic["unknown_paths"]
    );
    let calls = engine.traffic.rows();
    for face in Face::ALL {
        let base = face.base_path();
        let mut rows = calls
            .iter()
            .filter(|(_, route, _)| route.base == base)
            .peekable();
        if rows.peek().is_none() {
            continue;
        }
        put!(
            html,
            "<table><tr><th>{} <code>{}</code></th><th class=\"n\">calls</th></tr>",
            Escaped(face.name()),
            Escaped(base)
        );
        for (method, route, count) in rows {
            put!(
                html,
                "<tr><td><code>{} {}</code></td><td class=\"n\">{count}</td></tr>",
                Escaped(method.as_str()),
                Escaped(route.rest)
            );
        }
        html.push_str("</table>");
    }
    if calls.is_empty() {
        html.push_str("<p class=\"quiet\">None yet. Faces:");
        for face in Face::ALL {
            put!(html, " <code>{}</code>", Escaped(face.base_path()));
        }
        html.push_str("</p>");
    }
}

fn batches(html: &mut String, engine: &Engine) {
    let cells = engine.batches.all();
    put!(html, "<h2>Batches ({})</h2>", cells.len());
    if cells.is_empty() {
        return;
    }
    html.push_str(
        "<table><tr><th>batch</th><th>face</th><th>state</th><th class=\"n\">rows</th><th class=\"n\">done</th>\
         <th class=\"n\">failed</th><th>created</th></tr>",
    );
    for cell in cells.iter().rev().take(BATCHES) {
        cell.with(|record| batch(html, record));
    }
    html.push_str("</table>");
}

fn batch(html: &mut String, record: &BatchRecord) {
    put!(
        html,
        "<tr><td><code>{}</code></td><td>{}</td><td class=\"state\">{}</td><td class=\"n\">{}</td>\
         <td class=\"n\">{}</td><td class=\"n\">{}</td><td><code>{}</code></td></tr>",
        Escaped(&record.id),
        Escaped(&record.face),
        record.shown_state().name(),
        record.total,
        record.done.completed,
        record.done.failed,
        Escaped(&rfc3339(record.created_ms))
    );
}

fn invoice(html: &mut String, engine: &Engine) -> io::Result<()> {
    html.push_str(
        "<h2>Invoice</h2><table><tr><th>face</th><th>lane</th><th class=\"n\">units</th><th class=\"n\">input</th>\
         <th class=\"n\">output</th><th class=\"n\">US dollars</th></tr>",
    );
    for (face, lane, sum) in engine.invoice_sums() {
        put!(
            html,
            "<tr><td>{}</td><td>{lane}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{:.6}</td></tr>",
            Escaped(&face),
            sum.units,
            sum.input_tokens,
            sum.output_tokens,
            sum.price_usd
        );
    }
    html.push_str("</table>");
    let mut files = engine.invoice_files();
    let newest = files.len().saturating_sub(LOOKED_AT).max(1);
    files.drain(1..newest);
    let mut lines: Vec<InvoiceLine> = Vec::new();
    for (path, len) in files {
        lines.extend(last_lines(&path, len, LINES)?);
    }
    lines.sort_by_key(|line| std::cmp::Reverse(line.at));
    if lines.is_empty() {
        return Ok(());
    }
    html.push_str(
        "<table><tr><th>last units</th><th>face</th><th>row</th><th>model</th><th class=\"n\">tokens</th>\
         <th class=\"n\">US dollars</th></tr>",
    );
    for line in lines.iter().take(LINES) {
        put!(
            html,
            "<tr><td><code>{}</code></td><td>{}</td><td><code>{}</code></td><td>{}</td><td class=\"n\">{} + {}</td>\
             <td class=\"n\">{:.8}</td></tr>",
            Escaped(&rfc3339(line.at.saturating_mul(1000))),
            Escaped(&line.face),
            Escaped(line.custom_id.as_deref().unwrap_or("realtime")),
            Escaped(&line.model),
            line.input_tokens,
            line.output_tokens,
            line.price_usd
        );
    }
    html.push_str("</table>");
    Ok(())
}

fn faults(html: &mut String, engine: &Engine) {
    let rules = engine.faults.to_json();
    let rules = rules.as_array().map_or(&[][..], Vec::as_slice);
    put!(html, "<h2>Faults ({})</h2>", rules.len());
    if rules.is_empty() {
        return;
    }
    html.push_str(
        "<table><tr><th>rule</th><th>matches</th><th>actions</th><th class=\"n\">seen</th>\
         <th class=\"n\">fired</th></tr>",
    );
    for rule in rules {
        put!(
            html,
            "<tr><td>{}</td><td><code>{}</code></td><td><code>{}</code></td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td></tr>",
            Escaped(rule["name"].as_str().unwrap_or_default()),
            Escaped(&rule["match"].to_string()),
            Escaped(&rule["actions"].to_string()),
            rule["seen"],
            rule["fired"]
        );
    }
    html.push_str("</table>");
}

/// A text that means nothing to a browser.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c if c.is_control() => f.write_char(' ')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_202_texts_are_escaped() {
        let text = Escaped("<a href='x'>&\"\u{1b}[31m").to_string();
        assert_eq!(text, "&lt;a href=&#39;x&#39;&gt;&amp;&quot; [31m");
    }
}
