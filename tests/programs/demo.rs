//! What `demo` leaves alone, and what it says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::{fails, program, shapes, train};

/// Copies an image of the data set to these places.
fn images(paths: &[PathBuf]) {
    let split = fs::read_dir(shapes().join("val")).expect("a folder");
    let image = split.map(|entry| entry.expect("a file").path()).min().expect("an image");
    for path in paths {
        fs::copy(&image, path).expect("a copy");
    }
}

/// What `demo` that must succeed says on stdout and on stderr.
fn draws(command: &mut Command) -> (String, String) {
    let output = command.output().expect("demo");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
    (text(&output.stdout), text(&output.stderr))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn images_are_not_drawn_over_and_the_weights_are_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    train(&at("run"), &["SOLVER.MAX_ITER", "1"]);
    fs::create_dir(at("photos")).expect("a folder");
    fs::create_dir(at("links")).expect("a folder");
    let originals = [at("photos/a.jpg"), at("photos/b.jpg")];
    images(&originals);
    std::os::unix::fs::symlink(at("photos/b.jpg"), at("links/b.jpg")).expect("a link");
    let before = originals.each_ref().map(|path| fs::read(path).expect("an image"));

    // A folder as input and output, named in two ways; and an output folder in which links lead to the images.
    let (photos, again, links) = (text(&at("photos")), text(&at("links/../photos")), text(&at("links")));
    let run = at("run");
    let (said, warned) = draws(&mut program("demo", &run, &[&photos, "--output", &again], &[]));
    assert!(said.contains("a_1.jpg") && said.contains("b_1.jpg"), "{said}");
    assert_eq!(warned, "");
    draws(&mut program("demo", &run, &[&text(&originals[1]), "--output", &links], &[]));
    assert!(at("links/b_1.jpg").is_file());
    let error = fails(&mut program("demo", &run, &[&photos, "--json", &text(&originals[0])], &[]), 1);
    assert!(error.contains("--json") && error.contains("is one of the images"), "{error}");
    assert_eq!(originals.each_ref().map(|path| fs::read(path).expect("an image")), before);

    // last_checkpoint wins over MODEL.WEIGHT, which need not even exist.
    let other = ["MODEL.WEIGHT", "other.pth"];
    let output = text(&at("pictures"));
    let (_, warned) = draws(&mut program("demo", &run, &[&text(&originals[0]), "--output", &output], &other));
    assert!(warned.contains("model_final.pth") && warned.contains("--weights other.pth"), "{warned}");

    let error = fails(&mut program("demo", &run, &[&photos, "--confidence-threshold", "70"], &[]), 1);
    assert!(error.contains("the confidence threshold is 70, but scores lie between 0 and 1"), "{error}");
}

#[test]
fn images_after_the_first_key_are_wrong_usage() {
    let error = fails(&mut program("demo", Path::new("nowhere"), &[], &["photo.jpg"]), 2);
    assert!(error.contains("there is no image before OUTPUT_DIR: images come before the first KEY"), "{error}");
}
