use proptest::prelude::*;

use super::*;

fn list(corners: &[[f32; 4]], size: (i64, i64)) -> BoxList {
    BoxList::new(Tensor::from_slice(&corners.concat()).view([-1, 4]), size, Mode::Xyxy).unwrap()
}

fn numbers(list: &BoxList) -> Vec<f32> {
    Vec::<f32>::try_from(list.bbox().contiguous().view(-1)).unwrap()
}

fn corners() -> impl Strategy<Value = Vec<[f32; 4]>> {
    let one = (0u16..90, 0u16..60, 0u16..40, 0u16..30);
    let corner = |(x, y, w, h): (u16, u16, u16, u16)| [x, y, x + w, y + h].map(f32::from);
    proptest::collection::vec(one.prop_map(corner), 0..12)
}

proptest! {
    #[test]
    fn xywh_and_back_is_the_same(corners in corners()) {
        let list = list(&corners, (100, 80));
        prop_assert_eq!(numbers(&list.convert(Mode::Xywh).convert(Mode::Xyxy)), numbers(&list));
    }

    #[test]
    fn flipping_twice_is_the_same(corners in corners()) {
        let list = list(&corners, (100, 80));
        for flip in [Flip::LeftRight, Flip::TopBottom] {
            prop_assert_eq!(numbers(&list.transpose(flip).unwrap().transpose(flip).unwrap()), numbers(&list));
        }
    }

    #[test]
    fn clipped_boxes_lie_inside_and_have_an_extent(corners in corners()) {
        let clipped = list(&corners, (50, 40)).clip_to_image(true).unwrap();
        for b in numbers(&clipped).chunks(4) {
            prop_assert!(b[0] >= 0.0 && b[1] >= 0.0 && b[2] <= 49.0 && b[3] <= 39.0 && b[0] < b[2] && b[1] < b[3]);
        }
    }

    #[test]
    fn area_does_not_depend_on_the_mode(corners in corners()) {
        let list = list(&corners, (100, 80));
        let (a, b) = (list.area(), list.convert(Mode::Xywh).area());
        prop_assert_eq!(Vec::<f32>::try_from(a).unwrap(), Vec::<f32>::try_from(b).unwrap());
    }
}

#[test]
fn fields_keep_their_order_and_follow_the_boxes() {
    let mut boxes = list(&[[0.0, 0.0, 9.0, 9.0], [5.0, 5.0, 5.0, 8.0], [1.0, 2.0, 8.0, 7.0]], (10, 10));
    boxes.add_field("scores", Tensor::from_slice(&[0.5f32, 0.25, 0.125]));
    boxes.add_field("labels", Tensor::from_slice(&[3i64, 1, 2]));
    boxes.add_field("scores", Tensor::from_slice(&[0.75f32, 0.25, 0.125]));
    assert_eq!(boxes.fields(), ["scores", "labels"]);
    let kept = boxes.clip_to_image(true).unwrap();
    assert_eq!(Vec::<i64>::try_from(kept.tensor_field("labels").unwrap()).unwrap(), [3, 2]);
    assert_eq!(Vec::<f32>::try_from(kept.tensor_field("scores").unwrap()).unwrap(), [0.75, 0.125]);
}

#[test]
fn a_mask_fewer_than_boxes_is_an_error_that_names_the_field() {
    let mut boxes = list(&[[0.0, 0.0, 9.0, 9.0], [1.0, 1.0, 5.0, 8.0]], (10, 10));
    let polygons = vec![vec![vec![1.0, 1.0, 5.0, 1.0, 5.0, 5.0]], vec![vec![1.0, 1.0]]];
    boxes.add_field("masks", SegmentationMask::from_polygons(polygons, (10, 10)));
    let error = format!("{:#}", boxes.select(&Tensor::from_slice(&[1i64])).unwrap_err());
    assert!(error.contains("field 'masks'") && error.contains("no instance 1 among 1"), "{error}");
}

#[test]
fn a_zero_sized_image_cannot_be_resized() {
    assert!(list(&[], (0, 10)).resize((5, 5)).is_err());
}
