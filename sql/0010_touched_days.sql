-- An archive's pass costs what has changed. Counting every day again found late rows too, at the cost of all rows there
-- are, each hour: so who consumes the mark of an hour says here that its day got something.
ALTER TABLE archived_days ADD COLUMN touched_at timestamptz DEFAULT now();
COMMENT ON COLUMN archived_days.touched_at IS 'When the day may have got rows that are not archived; the next run looks; date and time with zone; null: not since it was last looked at';
-- Marks are looked for by their hour.
CREATE INDEX esp_rollup_marks_by_bucket ON esp_rollup_marks (bucket);
