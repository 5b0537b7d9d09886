-- I9: a stale settle changes nothing. An attempt that lost its step and settled all the same would
-- stand beside the one that has it, or succeed a second time.
select one.run_id || ': the attempts ' || one.id || ' (' || one.step || ', ' || one.outcome || ') and ' || other.id || ' ('
  || other.step || ', ' || other.outcome || ') held the run at the same time'
from sluice.attempt as one
join sluice.attempt as other
  on other.run_id = one.run_id
  and other.id > one.id
  and tstzrange(other.started_at, other.ended_at) && tstzrange(one.started_at, one.ended_at)
union all
select attempt.run_id || ' succeeded ' || count(*) || ' times at ' || attempt.step
from sluice.attempt
join (select run_id, sum(send_backs) as times from sluice.step group by run_id) as sent_back using (run_id)
where attempt.outcome = 'succeeded'
group by attempt.run_id, attempt.step, sent_back.times
having count(*) > 1 + sent_back.times
