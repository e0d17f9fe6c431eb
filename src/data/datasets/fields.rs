/// Which fields the targets of [`Dataset::get`](super::Dataset::get) have beside boxes and labels, where the data set
/// has them. All of them, unless somebody says that fewer are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetFields {
    /// `masks`, which a mask head is trained on.
    pub masks: bool,
    /// `keypoints`, which a keypoint head is trained on.
    pub keypoints: bool,
}

impl TargetFields {
    /// Everything that the data set has.
    pub const ALL: Self = Self { masks: true, keypoints: true };
    /// Boxes and labels.
    pub const NONE: Self = Self { masks: false, keypoints: false };
}

impl Default for TargetFields {
    fn default() -> Self {
        Self::ALL
    }
}

/// What a data set is made for. The default is testing, with all fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatasetOptions {
    /// To train on it, so without what is not trained on: COCO's images without annotations, VOC's difficult objects.
    pub is_train: bool,
    /// What its targets need.
    pub fields: TargetFields,
}
