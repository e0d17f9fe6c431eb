use super::*;
use crate::data::datasets::numbers_for_names;
use serde_json::{json, Value};

fn read(content: &Value) -> Result<CocoFile> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("instances.json");
    fs::write(&path, content.to_string()).unwrap();
    CocoFile::read(&path)
}

fn message(content: &Value) -> String {
    format!("{:#}", read(content).err().expect("an error"))
}

fn image(id: i64) -> Value {
    json!({"id": id, "file_name": format!("{id}.jpg"), "width": 10, "height": 8, "license": 3})
}

fn annotation(id: i64, image: i64, category: i64) -> Value {
    json!({"id": id, "image_id": image, "category_id": category, "bbox": [1, 2.5, 3, 4], "area": 12, "iscrowd": 0})
}

#[test]
fn annotations_are_found_by_image() {
    let mut crowd = annotation(5, 9, 7);
    crowd["iscrowd"] = json!(1);
    crowd["segmentation"] = json!({"size": [8, 10], "counts": [1, 79]});
    let mut outlined = annotation(2, 4, 1);
    outlined["segmentation"] = json!([[0, 0, 5, 0, 5, 5.5], [1, 1, 2, 2, 3, 1]]);
    let mut run = annotation(3, 4, 1);
    run["segmentation"] = json!({"counts": [10, 70], "size": [8, 10]});
    let content = json!({
        "info": {"year": 2026},
        "images": [image(9), image(4), image(6)],
        "annotations": [crowd, outlined, annotation(1, 9, 1), run, annotation(8, 77, 1)],
        "categories": [{"id": 7, "name": "cat", "supercategory": "animal"}, {"id": 1, "name": "dog"}],
    });
    let file = read(&content).unwrap();
    let ids = |position| file.annotations(position).iter().map(|a| a.id).collect::<Vec<_>>();
    let image_ids: Vec<i64> = file.images().iter().filter_map(|image| image.id.number()).collect();
    assert_eq!(image_ids, [4, 6, 9]);
    assert_eq!((ids(0), ids(1), ids(2)), (vec![2, 3], vec![], vec![5, 1]));
    assert_eq!(file.annotations(2)[0].segmentation, Some(Segmentation::Crowd));
    assert_eq!(file.annotations(2)[1].segmentation, None);
    let Some(Segmentation::Polygons(polygons)) = &file.annotations(0)[0].segmentation else { panic!("polygons") };
    assert_eq!(polygons[0][..], [0.0, 0.0, 5.0, 0.0, 5.0, 5.5]);
    assert!(matches!(&file.annotations(0)[1].segmentation, Some(Segmentation::Rle(rle)) if rle.counts == [10, 70]));
}

/// Run lengths that do not fit their size.
fn long_run(iscrowd: i64) -> Value {
    let mut long = annotation(31, 4, 1);
    long["iscrowd"] = json!(iscrowd);
    long["segmentation"] = json!({"size": [8, 10], "counts": [1, 200]});
    long
}

#[test]
fn what_python_reads_is_read() {
    let mut odd = annotation(30, 4, 1);
    odd["segmentation"] = json!([[0, 0, 5, 0, 5, 5.5, 9]]);
    odd["area"] = json!(null);
    odd["image_id"] = json!("0004");
    odd["category_id"] = json!(1.0);
    let mut image = image(4);
    image["id"] = json!("0004");
    image["width"] = json!(10.0);
    let categories = json!([{"id": "1", "name": 7}]);
    let file = json!({"images": [image], "annotations": [odd, long_run(1)], "categories": categories});
    let file = read(&file).unwrap();
    assert_eq!((&file.images()[0].id, file.images()[0].width), (&ImageId::Name("0004".into()), 10));
    assert_eq!(file.categories()[0].name, "7");
    let Some(Segmentation::Polygons(polygons)) = &file.annotations(0)[0].segmentation else { panic!("polygons") };
    assert_eq!(polygons[0][..], [0.0, 0.0, 5.0, 0.0, 5.0, 5.5]);
    assert_eq!(file.annotations(0)[1].segmentation, Some(Segmentation::Crowd));
}

#[test]
fn image_ids_can_be_text() {
    let named = |id: &str| json!({"id": id, "file_name": format!("{id}.jpg"), "width": 10, "height": 8});
    let mut annotations = vec![annotation(1, 0, 1), annotation(2, 0, 1), annotation(3, 0, 1), annotation(4, 0, 1)];
    for (annotation, id) in annotations.iter_mut().zip([json!("img_2"), json!("img_10"), json!("img_2"), json!(7)]) {
        annotation["image_id"] = id;
    }
    let content = json!({
        "images": [named("img_2"), named("img_10"), named("007"), image(3)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "dog"}],
    });
    let file = read(&content).unwrap();
    let ids: Vec<String> = file.images().iter().map(|image| image.id.to_string()).collect();
    // As Python sorts them; it cannot sort numbers and text together.
    assert_eq!(ids, ["3", "007", "img_10", "img_2"]);
    let found = |place| file.annotations(place).iter().map(|annotation| annotation.id).collect::<Vec<_>>();
    assert_eq!((found(0), found(1), found(2), found(3)), (vec![], vec![4], vec![2], vec![1, 3]));
    assert_eq!(numbers_for_names(file.images()), Some(vec![1, 2, 3, 4]));
    let mut shuffled = file.images().to_vec();
    shuffled.swap(0, 3);
    assert_eq!(numbers_for_names(&shuffled), Some(vec![4, 2, 3, 1]));
    assert_eq!(numbers_for_names(&file.images()[..1]), None);
}

#[test]
fn what_is_not_used_can_be_anything() {
    let mut odd = annotation(1, 4, 1);
    odd["segmentation"] = json!({"format": "rle", "counts": [10, 70], "extra": {"a": [1]}, "size": [8, 10]});
    let mut crowd = annotation(2, 4, 1);
    crowd["iscrowd"] = json!(null);
    let mut bare = annotation(3, 4, 1);
    bare["segmentation"] = json!([[1, 2, "NaN", 4, 5, 6]]);
    bare["bbox"][2] = json!("Infinity");
    let content = json!({
        "images": [image(4)],
        "annotations": [odd, crowd, bare],
        "categories": [{"id": 1, "name": "dog"}],
    });
    // As Python writes them.
    let text = content.to_string().replace("\"NaN\"", "NaN").replace("\"Infinity\"", "Infinity");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("instances.json");
    fs::write(&path, text.replace("\"area\":12", "\"area\":NaN")).unwrap();
    let file = CocoFile::read(&path).unwrap();
    let annotations = file.annotations(0);
    assert!(matches!(&annotations[0].segmentation, Some(Segmentation::Rle(rle)) if rle.counts == [10, 70]));
    assert!(annotations[1].iscrowd && !annotations[0].iscrowd);
    assert!(matches!(&annotations[2].segmentation, Some(Segmentation::Unreadable(_))));
    assert_eq!(annotations[2].bbox[2], f64::INFINITY);
}

#[test]
fn errors_name_file_and_id() {
    let categories = json!([{"id": 1, "name": "dog"}]);
    let good = json!({"images": [image(4)], "annotations": [annotation(2, 4, 1)], "categories": categories});
    assert!(read(&good).is_ok());
    for (key, value, expected) in [
        ("annotations", json!([annotation(31, 4, 99)]), "annotation 31 of image 4 has category 99"),
        ("annotations", json!([annotation(31, 4, 1), annotation(31, 4, 1)]), "two annotations have the id 31"),
        ("images", json!([image(4), image(4)]), "two images have the id 4: 4.jpg and 4.jpg"),
        ("categories", json!([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]), "two categories have the id 1"),
        ("annotations", json!([{"id": 31}]), "annotations[0] (id 31): missing field `image_id`"),
        ("images", json!([{"id": 4, "file_name": 4}]), "images[0] (id 4), file_name: invalid type"),
        ("images", json!([{"id": 4, "file_name": "a", "width": 0, "height": 5}]), "has the size 0x5"),
    ] {
        let mut bad = good.clone();
        bad[key] = value;
        let message = message(&bad);
        assert!(message.contains(expected) && message.contains("instances.json"), "{message}");
    }
    assert!(message(&json!([1])).contains("no COCO annotation file"));
    let missing = CocoFile::read(Path::new("no/such/file.json")).err().unwrap();
    assert!(format!("{missing:#}").contains("cannot read annotation file no/such/file.json below /"));
}
