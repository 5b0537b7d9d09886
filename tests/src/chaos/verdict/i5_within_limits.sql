-- I5: per step, failures, crashes and send-backs each within their limit (30, 10, 3); defers count
-- nowhere. Nobody revived a run here, so the counters are those of all attempts.
with counted as (
  select step.run_id, step.position, step.name, step.state, step.failures, step.crashes, step.send_backs,
    count(*) filter (where attempt.outcome = 'failed') as failed,
    count(*) filter (where attempt.outcome = 'crashed') as crashed
  from sluice.step
  left join sluice.attempt on attempt.run_id = step.run_id and attempt.position = step.position
  group by step.run_id, step.position
)
select run_id || ' at ' || name || ' is ' || state || ' and has spent ' || failures || ' failures (' || failed
  || ' attempts failed), ' || crashes || ' crashes (' || crashed || ' attempts crashed), ' || send_backs || ' send-backs'
from counted
where failures > 30 - (state <> 'dead')::integer
  or crashes > 10 - (state <> 'dead')::integer
  or send_backs > 3
  or failures > failed
  or crashes > crashed
