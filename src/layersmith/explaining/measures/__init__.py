"""The statistics of `explain`, one a file: functions of tensors that know no model."""
