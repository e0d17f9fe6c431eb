//! Downloads from a server that the test starts on loopback.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;

use super::*;

#[test]
fn names_and_promises() {
    assert_eq!(file_name("https://a.b/c/resnet50-19c8e357.pth?x=1").unwrap(), "resnet50-19c8e357.pth");
    assert_eq!(file_name("https://a.b/1/R-50/model_final.pkl").unwrap(), "_1_R-50_model_final.pkl");
    assert!(file_name("https://a.b").is_err());
    assert!(file_name("https://a.b/x/..").is_err());
    assert_eq!(hash_prefix("resnet50-19c8e357.pth"), Some("19c8e357"));
    assert_eq!(hash_prefix("res2net50_26w_4s-06e79181.pth"), Some("06e79181"));
    assert_eq!(hash_prefix("R-50.pkl"), None);
    assert_eq!(hash_prefix("R-50-GN.pkl"), None);
}

/// What the server does with one connection.
#[derive(Clone, Copy)]
enum Manner {
    /// Answers everything, ranges included.
    Whole,
    /// Ends the connection after this many bytes of the body.
    Cut(usize),
    /// Ignores ranges and answers the whole file.
    NoRanges,
    Status(u16),
}

/// Serves `content` under every path: the n-th connection in the n-th manner, the last one from then on.
fn serve(content: Vec<u8>, manners: Vec<Manner>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = connections.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let at = counter.fetch_add(1, Ordering::SeqCst);
            let manner = manners[at.min(manners.len() - 1)];
            // A client that hangs up is part of the test.
            let _ = answer(stream.unwrap(), &content, manner);
        }
    });
    (address, connections)
}

fn answer(mut stream: TcpStream, content: &[u8], manner: Manner) -> std::io::Result<()> {
    let mut range = 0;
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?.to_lowercase();
        if let Some(from) = line.strip_prefix("range: bytes=") {
            range = from.trim_end_matches('-').parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    if let Manner::Status(code) = manner {
        return write!(stream, "HTTP/1.1 {code} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let start: usize = if matches!(manner, Manner::NoRanges) { 0 } else { range };
    let total = content.len();
    if start >= total {
        return write!(
            stream,
            "HTTP/1.1 416 No\r\nContent-Range: bytes */{total}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    let body = &content[start..];
    let status = if start > 0 { "206 Partial Content" } else { "200 OK" };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n", body.len())?;
    if start > 0 {
        write!(stream, "Content-Range: bytes {start}-{}/{total}\r\n", total - 1)?;
    }
    write!(stream, "\r\n")?;
    let end = match manner {
        Manner::Cut(len) => len.min(body.len()),
        _ => body.len(),
    };
    stream.write_all(&body[..end])
}

fn content() -> Vec<u8> {
    (0..300_000u32).map(|i| (i * 7 + i / 251) as u8).collect()
}

fn hashed_name() -> String {
    let hash: String = Sha256::digest(content()).iter().map(|b| format!("{b:02x}")).collect();
    format!("model-{}.pth", &hash[..8])
}

#[test]
fn cut_connections_are_continued() {
    let (address, connections) =
        serve(content(), vec![Manner::Cut(100_000), Manner::Status(503), Manner::Cut(50_000), Manner::Whole]);
    let folder = tempfile::tempdir().unwrap();
    let url = format!("{address}/a/{}", hashed_name());
    let file = cache_url(&url, folder.path()).unwrap();
    assert_eq!(fs::read(&file).unwrap(), content());
    assert_eq!(connections.load(Ordering::SeqCst), 4);
    assert!(!folder.path().join(format!("{}.part", hashed_name())).exists());
    // The second time nothing is asked.
    assert_eq!(cache_url(&url, folder.path()).unwrap(), file);
    assert_eq!(connections.load(Ordering::SeqCst), 4);
}

#[test]
fn a_server_without_ranges_starts_again() {
    let (address, _) = serve(content(), vec![Manner::Cut(1000), Manner::NoRanges]);
    let folder = tempfile::tempdir().unwrap();
    let file = cache_url(&format!("{address}/plain.pkl"), folder.path()).unwrap();
    assert_eq!(fs::read(file).unwrap(), content());
}

#[test]
fn a_part_that_is_already_whole_is_taken() {
    let (address, _) = serve(content(), vec![Manner::Whole]);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("plain.pkl.part"), content()).unwrap();
    let file = cache_url(&format!("{address}/plain.pkl"), folder.path()).unwrap();
    assert_eq!(fs::read(file).unwrap(), content());
}

#[test]
fn a_wrong_hash_is_refused() {
    let (address, _) = serve(content(), vec![Manner::Whole]);
    let folder = tempfile::tempdir().unwrap();
    let error = format!("{:#}", cache_url(&format!("{address}/model-0123abcd.pth"), folder.path()).unwrap_err());
    assert!(error.contains("0123abcd") && error.contains("SHA-256"), "{error}");
    assert!(!folder.path().join("model-0123abcd.pth").exists());
    assert!(!folder.path().join("model-0123abcd.pth.part").exists());
}

#[test]
fn what_cannot_be_fetched_says_where_to_put_it() {
    let (address, connections) = serve(content(), vec![Manner::Status(404)]);
    let folder = tempfile::tempdir().unwrap();
    let error = format!("{:#}", cache_url(&format!("{address}/model.pth"), folder.path()).unwrap_err());
    let place = folder.path().join("model.pth").display().to_string();
    assert!(error.contains("404") && error.contains(&place), "{error}");
    assert_eq!(connections.load(Ordering::SeqCst), 1, "a refusal is not repeated");
    // Nobody listens on a port that was just closed.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = format!("{:#}", cache_url(&format!("http://{closed}/model.pth"), folder.path()).unwrap_err());
    assert!(error.contains(&place), "{error}");
}

#[test]
fn two_at_once_fetch_once() {
    let (address, connections) = serve(content(), vec![Manner::Whole]);
    let folder = tempfile::tempdir().unwrap();
    let url = format!("{address}/{}", hashed_name());
    // Locks belong to open files, so threads exclude each other as processes do.
    let fetch = || {
        thread::spawn({
            let (url, folder) = (url.clone(), folder.path().to_path_buf());
            move || cache_url(&url, &folder).unwrap()
        })
    };
    for handle in [fetch(), fetch(), fetch()] {
        assert_eq!(fs::read(handle.join().unwrap()).unwrap(), content());
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}
