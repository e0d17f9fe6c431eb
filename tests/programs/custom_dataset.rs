//! A data set that the library does not know.

use maskrcnn_benchmark::cli;

use super::support::{arguments, fails, program, shapes};

#[path = "../../examples/custom_dataset.rs"]
mod example;

#[test]
fn a_data_set_of_ones_own_is_trained_and_tested_by_its_name() {
    let _generator = super::support::generator();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let images = shapes().join("train");
    let mut names: Vec<String> = std::fs::read_dir(&images)
        .expect("images")
        .map(|entry| entry.expect("an image").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let line = |(number, name): (usize, &String)| {
        let class = if number % 2 == 0 { "round" } else { "square" };
        format!("{name},{class},20,{},90,100\n", 10 + number)
    };
    let lines: String = names.iter().enumerate().map(line).collect();
    std::fs::write(folder.path().join("boxes.csv"), lines).expect("boxes");
    let catalog = folder.path().join("cells.yaml");
    let entry = format!("{{factory: CsvDataset, root: {}, ann_file: boxes.csv}}", images.display());
    let text = format!("DATA_DIR: {}\nDATASETS:\n  cells: {entry}\n", folder.path().display());
    std::fs::write(&catalog, text).expect("a catalog");

    let catalog = catalog.display().to_string();
    let overrides = [
        ["PATHS_CATALOG", &catalog],
        ["DATASETS.TRAIN", "('cells',)"],
        ["DATASETS.TEST", "('cells',)"],
        ["MODEL.ROI_BOX_HEAD.NUM_CLASSES", "3"],
        ["MODEL.MASK_ON", "False"],
        ["SOLVER.MAX_ITER", "2"],
    ]
    .concat();
    let output = folder.path().join("output");
    let arguments = arguments(&output, &["--seed", "5"], &overrides);
    let line = std::iter::once("custom_dataset".into()).chain(arguments.into_iter().map(Into::into));
    let registries = example::registries().expect("a new name");
    cli::train_net(line.collect::<Vec<_>>(), &registries).expect("a training");
    assert!(output.join("inference/cells/bbox.json").is_file());
    let labels = std::fs::read_to_string(output.join("labels.json")).expect("labels.json");
    assert_eq!(labels, "{\n  \"1\": \"round\",\n  \"2\": \"square\"\n}");

    let error = fails(&mut program("train_net", &folder.path().join("other"), &[], &overrides), 1);
    assert!(error.contains("cells") && error.contains("CsvDataset") && error.contains("COCODataset"), "{error}");
}
