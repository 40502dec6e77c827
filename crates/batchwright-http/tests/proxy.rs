//! Proxies from the environment, which only a process of its own can be given.
#![allow(clippy::unwrap_used, reason = "tests")]

use batchwright_core::{ErrorKind, RetryClass};
use batchwright_http::{BaseUrl, Call, HttpClient};
use std::{
    io::{Read, Write},
    net::TcpListener,
    process::Command,
};

const WITHIN: &str = "BATCHWRIGHT_TEST_WITHIN";

/// Answers one connection and hands back what it asked.
fn answer_once(answer: &'static str) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut buffer = [0; 8192];
        let read = socket.read(&mut buffer).unwrap();
        socket.write_all(answer.as_bytes()).unwrap();
        String::from_utf8_lossy(&buffer[..read]).into_owned()
    });
    (address, server)
}

#[test]
fn f_047_proxies_are_used_but_not_for_this_machine_and_407_stops() {
    if std::env::var_os(WITHIN).is_some() {
        return within();
    }
    for scheme in ["http", "https"] {
        let (address, proxy) =
            answer_once("HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n");
        let proxy_url = format!("http://user:canary@{address}");
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "f_047_proxies_are_used_but_not_for_this_machine_and_407_stops",
                "--nocapture",
            ])
            .env(WITHIN, scheme)
            .env("HTTP_PROXY", &proxy_url)
            .env("http_proxy", &proxy_url)
            .env("HTTPS_PROXY", &proxy_url)
            .env("https_proxy", &proxy_url)
            .env_remove("NO_PROXY")
            .env_remove("no_proxy")
            .output()
            .unwrap();
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8_lossy(&told);
        assert!(output.status.success(), "{told}");
        assert!(!told.contains("canary"), "{told}");
        let asked = proxy.join().unwrap();
        let expected = if scheme == "https" {
            "CONNECT api.invalid:443"
        } else {
            "POST http://api.invalid/v1/batches"
        };
        assert!(asked.starts_with(expected), "{asked}");
    }
}

/// Runs with the proxy in the environment. Its output is searched for the proxy's password.
#[expect(clippy::print_stdout, reason = "the output is what is tested")]
#[tokio::main(flavor = "current_thread")]
async fn within() {
    let client = HttpClient::builder().build().unwrap();
    let (address, here) = answer_once("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let url = format!("http://{address}/v1").parse().unwrap();
    assert_eq!(
        client
            .send(Call::get("poll the batch", url))
            .await
            .unwrap()
            .status,
        200
    );
    assert!(here.join().unwrap().starts_with("GET /v1"));

    let base = format!("{}://api.invalid/v1", std::env::var(WITHIN).unwrap());
    let url = BaseUrl::parse(&base, true)
        .unwrap()
        .join("batches")
        .unwrap();
    let call = Call::post("create the batch", url).json("{}");
    let error = client.send(call.clone()).await.unwrap_err();
    println!("{error} {error:?}");
    assert_eq!(
        (error.kind(), error.class()),
        (ErrorKind::ConfigInvalid, RetryClass::JobStop)
    );

    let direct = HttpClient::builder().no_proxy().build().unwrap();
    let error = direct.send(call).await.unwrap_err();
    println!("{error} {error:?}");
    assert_eq!(error.kind(), ErrorKind::Connect);
}
