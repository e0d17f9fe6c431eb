use std::fs;

use serde_json::json;
use tempfile::TempDir;

use super::*;

/// A COCO data set on disk: `sizes` (width, height) of its images, `(image, category, bbox)` of its annotations.
struct OnDisk {
    folder: TempDir,
    cfg: Config,
}

impl OnDisk {
    fn new(sizes: &[(u32, u32)], annotations: &[(usize, i64, [f64; 4])]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let images: Vec<Value> = sizes
            .iter()
            .enumerate()
            .map(|(id, &(width, height))| {
                let name = format!("{id}.png");
                let picture = image::RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, id as u8]));
                picture.save(folder.path().join(&name)).unwrap();
                json!({"id": id, "file_name": name, "width": width, "height": height})
            })
            .collect();
        let annotations: Vec<Value> = annotations
            .iter()
            .enumerate()
            .map(|(id, (image, category, bbox))| {
                let outline = [bbox[0], bbox[1], bbox[0] + bbox[2], bbox[1], bbox[0] + bbox[2], bbox[1] + bbox[3]];
                json!({
                    "id": id, "image_id": image, "category_id": category, "bbox": bbox, "iscrowd": 0,
                    "area": bbox[2] * bbox[3], "segmentation": [outline],
                })
            })
            .collect();
        let categories = json!([{"id": 3, "name": "circle"}, {"id": 8, "name": "box"}]);
        let content = json!({"images": images, "annotations": annotations, "categories": categories});
        fs::write(folder.path().join("instances.json"), content.to_string()).unwrap();

        let mut cfg = Config::default();
        let path = folder.path().display();
        let name = format!("shapes=coco:{path}/instances.json:{path}");
        (cfg.datasets.train.0, cfg.datasets.test.0) = (vec![name.clone()], vec![name]);
        cfg.output_dir = folder.path().join("out").display().to_string();
        cfg.model.roi_box_head.num_classes = 3;
        cfg.solver.ims_per_batch = 2;
        cfg.solver.max_iter = 12;
        cfg.test.ims_per_batch = 2;
        cfg.input.min_size_train.0 = vec![20, 30];
        cfg.input.min_size_test = 24;
        Self { folder, cfg }
    }

    /// Five images of two shapes, all annotated.
    fn usual() -> Self {
        let sizes = [(30, 20), (20, 30), (24, 24), (40, 20), (20, 40)];
        let boxes: Vec<(usize, i64, [f64; 4])> = (0..5).map(|image| (image, 8, [2.0, 3.0, 10.0, 8.0])).collect();
        Self::new(&sizes, &boxes)
    }

    /// Changes `annotations` in the file.
    fn change_annotations(&self, change: impl FnOnce(&mut Vec<Value>)) {
        let path = self.folder.path().join("instances.json");
        let mut content: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        change(content["annotations"].as_array_mut().unwrap());
        fs::write(&path, content.to_string()).unwrap();
    }

    fn load(&self, change: impl FnOnce(&mut LoaderOptions)) -> Result<Vec<DataLoader>> {
        let mut options = LoaderOptions {
            is_train: true,
            is_for_period: false,
            device: Device::Cpu,
            rank: 0,
            world_size: 1,
            start_iter: 0,
            state: None,
            seed: 5,
            datasets: &DatasetRegistry::default(),
            transforms: &TransformRegistry::default(),
        };
        change(&mut options);
        make_data_loader(&self.cfg, &options)
    }

    fn error(&self, change: impl FnOnce(&mut LoaderOptions)) -> String {
        format!("{:#}", self.load(change).err().expect("an error"))
    }
}

fn visited(loader: &DataLoader) -> Vec<Vec<usize>> {
    loader.iter().map(|batch| batch.unwrap().indices).collect()
}

#[test]
fn training_gives_iterations_and_labels() {
    let mut disk = OnDisk::usual();
    disk.cfg.dataloader.size_divisibility = 32;
    disk.cfg.model.mask_on = true;
    let loaders = disk.load(|_| ()).unwrap();
    assert_eq!((loaders.len(), loaders[0].len()), (1, 12));
    let batches: Vec<_> = loaders[0].iter().map(|batch| batch.unwrap()).collect();
    assert_eq!(batches.len(), 12);
    for batch in &batches {
        let size = batch.images.tensors.size();
        assert!(size[2] % 32 == 0 && size[3] % 32 == 0);
        assert_eq!(size[0] as usize, batch.targets.len());
        assert!(batch.targets.iter().all(|target| target.len() == 1 && target.has_field("masks")));
    }
    let labels = fs::read_to_string(disk.folder.path().join("out/labels.json")).unwrap();
    assert_eq!(labels, "{\n  \"3\": \"circle\",\n  \"8\": \"box\"\n}");
}

#[test]
fn testing_gives_every_image_once() {
    let disk = OnDisk::usual();
    let loaders = disk.load(|options| options.is_train = false).unwrap();
    let mut all: Vec<usize> = visited(&loaders[0]).concat();
    assert_eq!(loaders[0].len(), 3);
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3, 4]);
}

#[test]
fn test_time_augmentation_gets_the_images_as_read() {
    let mut disk = OnDisk::usual();
    disk.cfg.test.bbox_aug.enabled = true;
    let loaders = disk.load(|options| options.is_train = false).unwrap();
    let batch = loaders[0].iter().next().unwrap().unwrap();
    assert_eq!(batch.originals.len(), batch.indices.len());
    assert_eq!(batch.originals[0].size(), batch.targets[0].size());
}

#[test]
fn validation_during_training_gets_the_networks_input_even_with_test_time_augmentation() {
    let mut disk = OnDisk::usual();
    disk.cfg.test.bbox_aug.enabled = true;
    let loaders = disk.load(|options| (options.is_train, options.is_for_period) = (false, true)).unwrap();
    let batch = loaders[0].iter().next().unwrap().unwrap();
    assert!(batch.originals.is_empty());
    assert_eq!(batch.images.tensors.size()[0] as usize, batch.targets.len());
}

#[test]
fn a_resumed_loader_goes_on() {
    let disk = OnDisk::usual();
    let whole = disk.load(|_| ()).unwrap().remove(0);
    let rest = disk.load(|options| (options.start_iter, options.state) = (5, Some(whole.state()))).unwrap().remove(0);
    assert_eq!(visited(&rest), visited(&whole)[5..]);
    assert_eq!(rest.state(), whole.state());
    let fresh = disk.load(|options| options.start_iter = 5).unwrap().remove(0);
    assert_eq!(visited(&fresh).len(), 7);
    assert_eq!(fresh.state(), LoaderState { seed: 5, begun_at: 5 });
}

#[test]
fn several_training_sets_are_one() {
    let mut disk = OnDisk::usual();
    let name = disk.cfg.datasets.train[0].clone();
    disk.cfg.datasets.train.0.push(name.replace("shapes=", "more="));
    let loader = disk.load(|_| ()).unwrap().remove(0);
    assert_eq!(loader.dataset().len(), 10);
    assert!(visited(&loader).concat().iter().any(|&index| index > 4));
}

#[test]
fn too_few_classes_name_the_key_and_its_value() {
    let mut disk = OnDisk::usual();
    disk.cfg.model.roi_box_head.num_classes = 2;
    let error = disk.error(|_| ());
    assert!(error.contains("MODEL.ROI_BOX_HEAD.NUM_CLASSES is 2") && error.contains("to 3"), "{error}");
    assert!(error.contains("instances.json"), "{error}");
    assert!(disk.load(|options| options.is_train = false).is_ok());
    disk.cfg.model.rpn_only = true;
    assert!(disk.load(|_| ()).is_ok());
    // The file's second category does not occur.
    let mut first_only =
        OnDisk::new(&[(20, 20), (20, 20)], &[(0, 3, [2.0, 2.0, 9.0, 9.0]), (1, 3, [2.0, 2.0, 9.0, 9.0])]);
    first_only.cfg.model.roi_box_head.num_classes = 2;
    assert!(first_only.load(|_| ()).is_ok());
}

#[test]
fn training_sets_can_list_fewer_classes_or_call_them_otherwise() {
    let mut disk = OnDisk::usual();
    let whole = disk.cfg.datasets.train[0].clone();
    let text = fs::read_to_string(disk.folder.path().join("instances.json")).unwrap();
    let write = |name: &str, categories: Value, category: &str| {
        let mut content: Value = serde_json::from_str(&text.replace("\"category_id\":8", category)).unwrap();
        content["categories"] = categories;
        fs::write(disk.folder.path().join(name), content.to_string()).unwrap();
        whole.replace("instances.json", name).replace("shapes=", "other=")
    };
    let prefix = write("prefix.json", json!([{"id": 3, "name": "circle"}]), "\"category_id\":3");
    let renamed =
        write("renamed.json", json!([{"id": 3, "name": "Circle"}, {"id": 8, "name": "box"}]), "\"category_id\":8");
    disk.cfg.datasets.train.0 = vec![prefix, whole, renamed];
    let loader = disk.load(|_| ()).unwrap().remove(0);
    let dataset = loader.dataset();
    assert_eq!((dataset.len(), dataset.class_names().len(), dataset.largest_label()), (15, 3, 2));
    let labels = fs::read_to_string(disk.folder.path().join("out/labels.json")).unwrap();
    assert_eq!(labels, "{\n  \"3\": \"circle\",\n  \"8\": \"box\"\n}");
}

#[test]
fn heads_need_their_annotations() {
    let mut disk = OnDisk::usual();
    disk.cfg.model.mask_on = true;
    assert!(disk.load(|_| ()).is_ok());
    disk.cfg.model.keypoint_on = true;
    let error = disk.error(|_| ());
    assert!(error.contains("MODEL.KEYPOINT_ON is True") && error.contains("none of its 5 annotations has"), "{error}");
    disk.cfg.model.keypoint_on = false;
    let path = disk.folder.path().join("instances.json");
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("\"segmentation\"", "\"outline\"")).unwrap();
    let error = disk.error(|_| ());
    assert!(error.contains("MODEL.MASK_ON is True") && error.contains("none of its 5 annotations has"), "{error}");
    assert!(disk.load(|options| options.is_train = false).is_ok());
}

#[test]
fn instances_without_outline_are_named_where_masks_are_trained_and_do_not_matter_elsewhere() {
    let mut disk = OnDisk::usual();
    disk.change_annotations(|annotations| {
        annotations[1]["segmentation"] = json!([]);
        annotations[3]["segmentation"] = json!([[1, 2, 3, 4]]);
        annotations[4]["segmentation"] = json!({"size": [40, 20], "counts": [1, 9000]});
        // An outline is not missed where nothing of the box is left.
        let mut outside = annotations[0].clone();
        (outside["id"], outside["bbox"], outside["segmentation"]) = (json!(99), json!([90, 2, 9, 9]), json!(null));
        annotations.push(outside);
    });
    for is_train in [true, false] {
        let loader = disk.load(|options| options.is_train = is_train).unwrap().remove(0);
        for batch in loader.iter() {
            assert!(batch.unwrap().targets.iter().all(|target| target.len() == 1 && !target.has_field("masks")));
        }
    }
    disk.cfg.model.mask_on = true;
    let error = disk.error(|_| ());
    assert!(error.contains("3 of its 5 annotations, in 3 of 5 images, lack an outline"), "{error}");
    assert!(error.contains("annotation 1 of image 1 (1.png), annotation 3 of image 3 (3.png)"), "{error}");
    assert!(error.contains("annotation 4 of image 4 (4.png) (") && error.contains("instances.json"), "{error}");
    assert!(disk.error(|options| (options.is_train, options.is_for_period) = (false, true)).contains("annotation 1"));
    assert_eq!(visited(&disk.load(|options| options.is_train = false).unwrap()[0]).concat().len(), 5);
    disk.cfg.model.retinanet_on = true;
    disk.cfg.model.retinanet.num_classes = 3;
    assert!(disk.load(|_| ()).is_ok());
}

#[test]
fn many_gaps_are_counted_and_the_first_named() {
    let image = |id: usize| (id, 8, [2.0, 3.0, 10.0, 8.0]);
    let mut disk = OnDisk::new(&[(30, 20); 14], &(0..14).map(image).collect::<Vec<_>>());
    disk.change_annotations(|annotations| annotations[1..].iter_mut().for_each(|a| a["segmentation"] = json!(null)));
    disk.cfg.model.mask_on = true;
    let error = disk.error(|_| ());
    assert!(error.contains("13 of its 14 annotations, in 13 of 14 images"), "{error}");
    assert!(error.contains("annotation 10 of image 10 (10.png), 3 more"), "{error}");
}

#[test]
fn instances_without_keypoints_are_named() {
    let mut disk = OnDisk::usual();
    let points = |number: usize| json!([5, 6, 2].repeat(number));
    disk.change_annotations(|annotations| {
        annotations.iter_mut().for_each(|annotation| annotation["keypoints"] = points(17));
    });
    disk.cfg.model.keypoint_on = true;
    assert!(disk.load(|_| ()).is_ok());
    disk.change_annotations(|annotations| annotations[2]["keypoints"] = points(16));
    let error = disk.error(|_| ());
    assert!(error.contains("1 of its 5 annotations, in 1 of 5 images, lack keypoints"), "{error}");
    assert!(error.contains("annotation 2 of image 2 (2.png) (48 values, the first has 51"), "{error}");
    disk.cfg.model.keypoint_on = false;
    assert!(disk.load(|_| ()).is_ok());
}

#[test]
fn keypoints_that_cannot_be_mirrored_are_found_before_training() {
    let mut disk = OnDisk::usual();
    let path = disk.folder.path().join("instances.json");
    let points = "\"num_keypoints\":11,\"keypoints\":[";
    let with = |number: usize| format!("{points}{}],\"segmentation\"", vec!["5,6,2"; number].join(","));
    let text = fs::read_to_string(&path).unwrap();
    disk.cfg.model.keypoint_on = true;
    disk.cfg.model.roi_keypoint_head.num_classes = 11;
    fs::write(&path, text.replace("\"segmentation\"", &with(11))).unwrap();
    let error = disk.error(|_| ());
    assert!(error.contains("INPUT.HORIZONTAL_FLIP_PROB_TRAIN is 0.5") && error.contains("set it to 0.0"), "{error}");
    assert!(error.contains("instances.json"), "{error}");
    assert!(disk.load(|options| (options.is_train, options.is_for_period) = (false, true)).is_ok());
    disk.cfg.input.horizontal_flip_prob_train = 0.0;
    assert!(disk.load(|_| ()).is_ok());

    fs::write(&path, text.replace("\"segmentation\"", &with(17))).unwrap();
    disk.cfg.model.roi_keypoint_head.num_classes = 17;
    disk.cfg.input.horizontal_flip_prob_train = 0.5;
    assert!(disk.load(|_| ()).is_ok());
    disk.cfg.input.vertical_flip_prob_train = 0.5;
    assert!(disk.error(|_| ()).contains("INPUT.VERTICAL_FLIP_PROB_TRAIN is 0.5"));
}

#[test]
fn a_set_without_usable_annotations_names_its_file() {
    let disk = OnDisk::new(&[(20, 20), (20, 20)], &[(0, 3, [1.0, 1.0, 1.0, 9.0])]);
    let error = disk.error(|_| ());
    assert!(error.contains("no image to train on") && error.contains("instances.json"), "{error}");
    assert!(disk.load(|options| options.is_train = false).is_ok());
    let error = OnDisk::new(&[], &[]).error(|options| options.is_train = false);
    assert!(error.contains("has no images") && error.contains("instances.json"), "{error}");
}

#[test]
fn boxes_without_area_or_outside_the_image_are_left_out() {
    let boxes = [
        (0, 3, [2.0, 2.0, 5.0, 5.0]),
        (0, 3, [2.0, 2.0, 0.0, 5.0]),
        (0, 3, [100.0, 2.0, 5.0, 5.0]),
        (0, 3, [-9.0, -9.0, 5.0, 5.0]),
        (0, 8, [12.0, 12.0, 50.0, 50.0]),
    ];
    let disk = OnDisk::new(&[(20, 20)], &boxes);
    let sample = disk.load(|_| ()).unwrap()[0].dataset().get(0).unwrap();
    let got = Vec::<f32>::try_from(sample.target.bbox().flatten(0, -1)).unwrap();
    assert_eq!(got, [2.0, 2.0, 6.0, 6.0, 12.0, 12.0, 19.0, 19.0]);
    let labels = Vec::<i64>::try_from(sample.target.tensor_field("labels").unwrap()).unwrap();
    assert_eq!(labels, [1, 2]);
}

#[test]
fn batches_that_cannot_be_shared_say_what_to_set() {
    let disk = OnDisk::usual();
    let error = disk.error(|options| options.world_size = 4);
    assert!(error.contains("SOLVER.IMS_PER_BATCH (2)") && error.contains("(4): set it to 4"), "{error}");
    let error = disk.error(|options| (options.is_train, options.world_size) = (false, 3));
    assert!(error.contains("TEST.IMS_PER_BATCH (2)"), "{error}");
}

#[test]
fn unreadable_images_stop_the_run_by_name() {
    let disk = OnDisk::usual();
    for (content, reason) in
        [(Some(&b"\xff\xd8\xff\xe0"[..]), "truncated"), (Some(b""), "empty"), (None, "cannot read")]
    {
        let path = disk.folder.path().join("3.png");
        match content {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let loader = disk.load(|options| options.is_train = false).unwrap().remove(0);
        let error = loader.iter().find_map(|batch| batch.err()).expect("an error");
        let error = format!("{error:#}");
        assert!(error.contains("3.png") && error.contains(reason), "{error}");
    }
}

#[test]
fn no_data_set_is_an_error() {
    let mut disk = OnDisk::usual();
    disk.cfg.datasets.train.0.clear();
    assert!(disk.error(|_| ()).contains("DATASETS.TRAIN names no data set"));
}
