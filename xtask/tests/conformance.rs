//! Every script has its face, and every face its script.

use xtask::conformance::{FACES, FOLDER};

#[test]
fn each_script_is_run() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let entries = std::fs::read_dir(format!("{folder}/{FOLDER}")).unwrap();
    let mut scripts: Vec<String> = entries
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter_map(|file| Some(file.strip_suffix("_sdk.py")?.to_owned()))
        .collect();
    let mut faces: Vec<String> = FACES.iter().map(|(name, _)| (*name).to_owned()).collect();
    scripts.sort_unstable();
    faces.sort_unstable();
    assert_eq!(scripts, faces);
}
