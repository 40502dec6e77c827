//! Compressed bodies: right ones, wrong ones, and bombs.

use std::io::Write as _;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use flate2::write::GzEncoder;
use flate2::{Compress, Compression, Crc, FlushCompress};
use futures::stream;

use crate::faults::GzipKind;

/// A body compressed as asked, and what its `Content-Encoding` says.
pub(crate) fn encode(body: &[u8], kind: GzipKind) -> (Vec<u8>, Option<&'static str>) {
    match kind {
        GzipKind::Plain => (member(body), Some("gzip")),
        GzipKind::Members => {
            let members = body.chunks(256).flat_map(member).collect();
            (members, Some("gzip"))
        }
        GzipKind::Twice => (member(&member(body)), Some("gzip, gzip")),
        GzipKind::TwiceUnsaid => (member(&member(body)), Some("gzip")),
        GzipKind::OnlySaid => (body.to_vec(), Some("gzip")),
        GzipKind::Unsaid => (member(body), None),
        GzipKind::XGzip => (member(body), Some("x-gzip")),
        GzipKind::Garbage => {
            let mut bytes = member(body);
            bytes.extend_from_slice(&[0xA5; 32]);
            (bytes, Some("gzip"))
        }
    }
}

fn member(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder
        .write_all(body)
        .and_then(|()| encoder.finish())
        .expect("memory takes every write")
}

/// Bytes of a bomb's repeated piece, decompressed.
const PIECE: usize = 16 << 20;
const HEADER: [u8; 10] = [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 2, 0xFF];

/// An answer of one gzip member: `spaces` spaces, and `rest` after them.
///
/// The spaces are compressed once and the piece is sent again and again, so that a bomb costs its sender nothing.
pub(crate) fn bomb(spaces: u64, rest: &[u8]) -> Response {
    let blank = vec![b' '; PIECE];
    let piece = Bytes::from(block(&blank, FlushCompress::Full));
    let mut piece_crc = Crc::new();
    piece_crc.update(&blank);
    let (pieces, odd) = (spaces / PIECE as u64, spaces % PIECE as u64);
    let odd = usize::try_from(odd).expect("less than a piece fits usize");
    let mut tail = blank;
    tail.truncate(odd);
    tail.extend_from_slice(rest);
    let mut crc = Crc::new();
    for _ in 0..pieces {
        crc.combine(&piece_crc);
    }
    crc.update(&tail);
    let mut end = block(&tail, FlushCompress::Finish);
    end.extend_from_slice(&crc.sum().to_le_bytes());
    // The format keeps the length modulo 2^32, and so does this counter.
    end.extend_from_slice(&crc.amount().to_le_bytes());
    let pieces = (0..pieces).map(move |_| piece.clone());
    let body = std::iter::once(Bytes::from_static(&HEADER))
        .chain(pieces)
        .chain(std::iter::once(Bytes::from(end)))
        .map(Ok::<_, std::convert::Infallible>);
    let mut response = Response::new(Body::from_stream(stream::iter(body)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// Deflated bytes that end on a byte.
fn block(bytes: &[u8], flush: FlushCompress) -> Vec<u8> {
    let mut deflate = Compress::new(Compression::best(), false);
    let mut out = Vec::with_capacity(bytes.len() / 500 + 1024);
    loop {
        let at = usize::try_from(deflate.total_in()).expect("what fits a slice fits usize");
        let room = out.capacity() - out.len();
        deflate
            .compress_vec(&bytes[at..], &mut out, flush)
            .expect("deflating does not fail");
        let all_in = deflate.total_in() == bytes.len() as u64;
        let room_left = out.capacity() > out.len();
        if all_in && room_left && room > 0 {
            return out;
        }
        out.reserve(64 << 10);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::{GzDecoder, MultiGzDecoder};

    use super::*;

    fn read(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        GzDecoder::new(bytes)
            .read_to_end(&mut out)
            .expect("a good member");
        out
    }

    #[test]
    fn f_044_kinds_are_what_they_say() {
        let body = vec![b'x'; 1_000];
        assert_eq!(read(&encode(&body, GzipKind::Plain).0), body);
        let (members, _) = encode(&body, GzipKind::Members);
        assert_eq!(read(&members).len(), 256);
        let mut all = Vec::new();
        MultiGzDecoder::new(&*members)
            .read_to_end(&mut all)
            .expect("good members");
        assert_eq!(all, body);
        assert_eq!(read(&read(&encode(&body, GzipKind::Twice).0)), body);
        assert_eq!(encode(&body, GzipKind::OnlySaid), (body, Some("gzip")));
    }

    #[tokio::test]
    async fn f_200_a_bomb_is_one_valid_member_of_the_size_asked_for() {
        for spaces in [0, 10, (PIECE as u64) * 3 + 7] {
            let bomb = bomb(spaces, b"{}").into_body();
            let bytes = axum::body::to_bytes(bomb, usize::MAX)
                .await
                .expect("a body from memory");
            assert!(
                bytes.len() as u64 <= spaces / 500 + 2_000,
                "{}",
                bytes.len()
            );
            let mut out = Vec::new();
            let mut decoder = GzDecoder::new(&*bytes);
            decoder.read_to_end(&mut out).expect("a good member");
            assert_eq!(out.len() as u64, spaces + 2);
            assert!(out.ends_with(b"{}"));
        }
    }
}
