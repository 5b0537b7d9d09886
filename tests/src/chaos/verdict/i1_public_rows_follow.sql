-- I1: and the rows that the app sees say so.
select 'user ' || run.subject || ' has a run that is ' || run.state || ', a queue row that is '
  || coalesce(queue.status, 'missing') || ' and ' || count(distinct shown.id) || ' instance rows'
from sluice.run
left join public.evolution_instance_creation_queue as queue on queue.user_id::text = run.subject
left join public.evolution_instances as shown on shown.user_id::text = run.subject
group by run.subject, run.state, queue.status
having queue.status is distinct from
    case run.state when 'succeeded' then 'completed' when 'active' then 'processing' else 'failed' end
  or count(distinct shown.id) <> 1
union all
select 'the public rows of ' || subject || ' wait to be written since ' || since || ': ' || error
from sluice.projection_pending
