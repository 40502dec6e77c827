//! HTTP/1.1 by default and HTTP/2 where asked for, against one server that speaks both.
#![allow(clippy::unwrap_used, reason = "tests")]

use batchwright_http::{Call, HttpClient, Url};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
};
use std::{convert::Infallible, sync::Arc};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;

const CERTIFICATE: &[u8] = include_bytes!("data/ca.pem");
const KEY: &[u8] = include_bytes!("data/key.der");

/// Tells the version of the request and its body's length.
async fn tell(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let version = request.version();
    let host = request.headers().contains_key("host") || request.uri().host().is_some();
    let length = request
        .into_body()
        .collect()
        .await
        .unwrap()
        .to_bytes()
        .len();
    let told = format!("{version:?} {length} {host}");
    Ok(Response::new(Full::new(told.into())))
}

async fn serve(listener: TcpListener) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(CERTIFICATE).unwrap()],
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(KEY)),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let tls = TlsAcceptor::from(Arc::new(config));
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let tls = tls.clone();
        connections.spawn(async move {
            let stream = tls.accept(socket).await.unwrap();
            let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let (io, service) = (TokioIo::new(stream), service_fn(tell));
            // The client may go away as it likes.
            if is_h2 {
                let executor = TokioExecutor::new();
                let _ = http2::Builder::new(executor)
                    .serve_connection(io, service)
                    .await;
            } else {
                let _ = http1::Builder::new().serve_connection(io, service).await;
            }
        });
    }
}

#[tokio::test]
async fn f_033_http_2_is_spoken_where_asked_for_and_http_1_otherwise() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut server = JoinSet::new();
    server.spawn(serve(listener));
    let url: Url = format!("https://localhost:{port}/v1?a=b").parse().unwrap();
    for (builder, version) in [
        (HttpClient::builder(), "HTTP/1.1"),
        (HttpClient::builder().http2(), "HTTP/2.0"),
    ] {
        let client = builder.extra_ca_pem(CERTIFICATE).build().unwrap();
        // More than one, so that connections are used again.
        for length in [2, 0, 300_000] {
            for fresh in [false, true] {
                let mut call = Call::post("send the request", url.clone()).json("x".repeat(length));
                call.fresh_connection = fresh;
                let reply = client.send(call).await.unwrap();
                let told = str::from_utf8(&reply.body).unwrap();
                assert_eq!(told, format!("{version} {length} true"));
            }
        }
    }
}
