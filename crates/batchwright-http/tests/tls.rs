//! Servers with TLS: whom the client trusts, and what it says of those it does not.
#![allow(clippy::unwrap_used, reason = "tests")]

use batchwright_core::{Error, ErrorKind, RetryClass};
use batchwright_http::{Call, HttpClient, HttpClientBuilder, Reply};
use rustls::{
    ServerConfig, ServerConnection, Stream,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
};
use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::Arc,
    thread::JoinHandle,
};

/// Self-signed for `localhost`, valid until 2126; made for these tests alone, as is its key.
const CERTIFICATE: &[u8] = include_bytes!("data/ca.pem");
/// The same, expired in 2021.
const EXPIRED: &[u8] = include_bytes!("data/expired.pem");
const KEY: &[u8] = include_bytes!("data/key.der");

/// Serves one connection and tells whether a request got through.
fn serve(certificate: &[u8]) -> (u16, JoinHandle<bool>) {
    let certificate = CertificateDer::from_pem_slice(certificate).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(KEY));
    let config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut connection = ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = Stream::new(&mut connection, &mut socket);
        let mut request = [0; 4096];
        if !stream.read(&mut request).is_ok_and(|read| read > 0) {
            return false;
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .unwrap();
        true
    });
    (port, server)
}

/// On connections of our own, and through reqwest.
fn builders() -> [HttpClientBuilder; 2] {
    [HttpClient::builder(), HttpClient::builder().http2()]
}

async fn call(client: &HttpClient, host: &str, port: u16) -> Result<Reply, Error> {
    let url = format!("https://{host}:{port}/canary").parse().unwrap();
    client
        .send(Call::post("create the batch", url).json("{}"))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn f_032_a_company_ca_is_trusted_when_given() {
    for builder in builders() {
        let client = builder.extra_ca_pem(CERTIFICATE).build().unwrap();
        let (port, server) = serve(CERTIFICATE);
        assert_eq!(
            &call(&client, "localhost", port).await.unwrap().body[..],
            b"ok"
        );
        assert!(server.join().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f_032_bad_certificates_stop_the_job_with_the_reason() {
    for builder in builders() {
        bad_certificates(builder).await;
    }
}

async fn bad_certificates(builder: HttpClientBuilder) {
    let plain = builder.clone().build().unwrap();
    let trusting = builder.extra_ca_pem(CERTIFICATE).build().unwrap();
    for (client, certificate, host, reason) in [
        (&plain, CERTIFICATE, "localhost", "a company's own CA"),
        (&trusting, EXPIRED, "localhost", "clock"),
        (&trusting, CERTIFICATE, "127.0.0.1", "not valid for name"),
    ] {
        let (port, server) = serve(certificate);
        let error = call(client, host, port).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.class()),
            (ErrorKind::Connect, RetryClass::JobStop),
            "{error}"
        );
        assert!(
            error
                .message()
                .starts_with("create the batch: the server's certificate is refused: "),
            "{error}"
        );
        assert!(error.message().contains(reason), "{error}");
        assert!(!format!("{error:?}").contains("canary"));
        assert!(!server.join().unwrap(), "no byte of the request was sent");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f_032_a_server_without_tls_was_sent_nothing() {
    for builder in builders() {
        without_tls(builder.build().unwrap()).await;
    }
}

async fn without_tls(client: HttpClient) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let _ = socket.read(&mut [0; 4096]);
        let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let error = call(&client, "localhost", port).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.class()),
        (ErrorKind::Connect, RetryClass::NotSent),
        "{error}"
    );
    server.join().unwrap();
}

#[test]
fn an_unusable_ca_is_refused() {
    for pem in [
        "",
        "nonsense",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        let error = HttpClient::builder().extra_ca_pem(pem).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{error}");
    }
}
