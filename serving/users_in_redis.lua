-- Takes in what a log of events tells next, as a whole and once, whoever brings it.
-- KEYS: where it is kept up to which sequence the log is known, and under which epoch.
-- ARGV: after, until, most acts of one, seconds until one is forgotten, a fresh epoch, events and erased digests as JSON.
-- An event is {sequence, user, visit, type it takes back, type, at_s, items}; what is not there is '' or -1.
-- One who is remembered is JSON, oldest first: at_s, type, item, at_s, type, item ...
local after, last = tonumber(ARGV[1]), tonumber(ARGV[2])
local most, ttl = tonumber(ARGV[3]), tonumber(ARGV[4])
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then
  epoch = ARGV[5]
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'sequence', '0')
end
local known = tonumber(redis.call('HGET', KEYS[1], 'sequence'))
if known < after or known >= last then
  return known
end
local prefix = KEYS[1] .. ':' .. epoch .. ':'
local held = {}

local function acts_of(owner)
  if not held[owner] then
    local text = redis.call('GET', prefix .. owner)
    held[owner] = text and cjson.decode(text) or {}
  end
  return held[owner]
end

-- Both in order of time; the first comes first where times are equal.
local function merged(first, second)
  local both, n, at = {}, 0, 1
  for place = 1, #second, 3 do
    while at <= #first and first[at] <= second[place] do
      for part = 0, 2 do both[n + 1 + part] = first[at + part] end
      n, at = n + 3, at + 3
    end
    for part = 0, 2 do both[n + 1 + part] = second[place + part] end
    n = n + 3
  end
  while at <= #first do
    n = n + 1
    both[n], at = first[at], at + 1
  end
  return both
end

local function without(acts, kind, items)
  local gone, kept, n = {}, {}, 0
  for _, item in ipairs(items) do gone[item] = true end
  for at = 1, #acts, 3 do
    if not (acts[at + 1] == kind and gone[acts[at + 2]]) then
      for part = 0, 2 do kept[n + 1 + part] = acts[at + part] end
      n = n + 3
    end
  end
  return kept
end

local function newest(acts)
  local kept, beyond = {}, #acts - 3 * most
  if beyond <= 0 then return acts end
  for at = 1, 3 * most do kept[at] = acts[beyond + at] end
  return kept
end

for _, event in ipairs(cjson.decode(ARGV[6])) do
  local sequence, user, visit, undone, kind, at_s, items = unpack(event)
  local owner = user ~= '' and user or visit
  if sequence > known and owner ~= '' then
    local acts = acts_of(owner)
    if user ~= '' and visit ~= '' and #acts_of(visit) > 0 then
      acts = merged(acts, acts_of(visit))
      held[visit] = {}
    end
    if undone >= 0 then acts = without(acts, undone, items) end
    if kind >= 0 then
      local told, n = {}, 0
      for _, item in ipairs(items) do
        told[n + 1], told[n + 2], told[n + 3] = at_s, kind, item
        n = n + 3
      end
      acts = merged(acts, told)
    end
    held[owner] = newest(acts)
  end
end
for _, owner in ipairs(cjson.decode(ARGV[7])) do held[owner] = {} end
for owner, acts in pairs(held) do
  if #acts > 0 then
    redis.call('SET', prefix .. owner, cjson.encode(acts), 'EX', ttl)
  else
    redis.call('DEL', prefix .. owner)
  end
end
redis.call('HSET', KEYS[1], 'sequence', ARGV[2])
return last
